"""Tables: three formats that say the same, how pictures are found, and what is refused."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from embedstore.errors import SourceError, UnknownNameError, UnreadableImage
from embedstore.sources.reading import parquet_bytes
from embedstore.sources.table import TableSource
from embedstore.testing.sources import SourceContract

RECORDS = [
    {"image": "a.png", "caption": " A dog, running.\t", "split": "train", "label": "dog", "language": None},
    {
        "image": "b.png",
        "caption": "Ein »Hund«\nauf zwei Zeilen",
        "split": "test",
        "label": "dog",
        "language": "de",
    },
    {"image": "a.png", "caption": 'says "woof"', "split": "train", "label": None, "language": "en"},
    {"image": "übung/ç é.png", "caption": "", "split": None, "label": "7", "language": None},
    {"image": "b.png", "caption": "NA", "split": "test", "label": "dog", "language": "fr"},
]
FORMATS = ["csv", "tsv", "jsonl", "parquet"]


def png(colour="red", size=(6, 4)):
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def write(path, records):
    names = list(dict.fromkeys(name for record in records for name in record))
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([{n: r.get(n) for n in names} for r in records]), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerow(names)
            for r in records:
                flat = [json.dumps(v) if isinstance(v, list) else v for v in (r.get(n) for n in names)]
                writer.writerow(["" if v is None else v for v in flat])
    return path


def pictures(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png())


def facts(source):
    samples = [source[i] for i in range(len(source))]
    return [(s.id, s.picture and s.picture.ref, s.captions, s.label, s.split) for s in samples]


@pytest.fixture
def here(tmp_path):
    pictures(tmp_path, "a.png", "b.png", "übung/ç é.png")
    return tmp_path


@pytest.mark.parametrize("ending", FORMATS)
class TestContract(SourceContract):
    @pytest.fixture
    def source(self, here, ending):
        return TableSource(write(here / f"t.{ending}", RECORDS))


class TestContractOfTextPools(SourceContract):
    @pytest.fixture
    def source(self, tmp_path):
        return TableSource(write(tmp_path / "t.csv", [{"caption": "a"}, {"caption": ""}, {"caption": "b"}]))


class TestContractOfPicturesInParquet(SourceContract):
    @pytest.fixture
    def source(self, tmp_path):
        rows = [{"image": png("red"), "caption": "a"}, {"image": b"no picture", "caption": "b"}]
        return TableSource(write(tmp_path / "t.parquet", rows))


@pytest.mark.parametrize("ending", FORMATS)
def test_a_text_without_end_is_refused_with_its_place(tmp_path, ending, monkeypatch):
    for module in ("tables", "text_rows"):
        monkeypatch.setattr(f"embedstore.sources.reading.{module}.MOST_BYTES", 60)
    path = write(tmp_path / f"t.{ending}", [{"caption": "short"}, {"caption": "x" * 61}])
    with pytest.raises(SourceError, match=r"too long|field larger than field limit") as caught:
        TableSource(path)
    csv.field_size_limit(1 << 17)  # the module's own, which is of the whole process
    assert {"parquet": "row 1", "jsonl": "line 2"}.get(ending, "line 3") in str(caught.value)


def test_a_file_without_line_ends_is_never_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("embedstore.sources.reading.text_rows.MOST_BYTES", 1000)
    (tmp_path / "t.jsonl").write_text('{"caption": "' + "x" * 5000)
    with pytest.raises(SourceError, match=r"t\.jsonl, line 1: a line too long"):
        TableSource(tmp_path / "t.jsonl")


def test_all_formats_give_the_same_samples(here):
    found = [facts(TableSource(write(here / f"t.{ending}", RECORDS))) for ending in FORMATS]
    assert found[0] == found[1] == found[2] == found[3]
    ids = [one[0] for one in found[0]]
    assert ids == ["a.png", "b.png", "übung/ç é.png"]
    first, second, third = found[0]
    assert [c.text for c in first[2]] == ["A dog, running.", 'says "woof"']
    assert [(c.text, c.language) for c in second[2]] == [("Ein »Hund«\nauf zwei Zeilen", "de"), ("NA", "fr")]
    assert third[2:] == ((), "7", None)


@pytest.mark.parametrize("ending", FORMATS)
def test_one_row_an_image_equals_one_row_a_caption(here, ending):
    wide = [{"image": "a.png", "captions": ["one", " ", "two"]}, {"image": "b.png", "captions": ["three"]}]
    long = [
        {"image": "a.png", "caption": "one"},
        {"image": "b.png", "caption": "three"},
        {"image": "a.png", "caption": "two"},
    ]
    as_wide = TableSource(write(here / f"wide.{ending}", wide))
    assert facts(as_wide) == facts(TableSource(write(here / f"long.{ending}", long)))
    assert as_wide.dropped == {"empty captions": 1}


def test_classes_identity_and_dropped(here):
    source = TableSource(write(here / "t.csv", RECORDS), columns={"label": "label"}, language="DE")
    assert source.classes == ("7", "dog")
    assert source.identity == {"kind": "table", "language": "de", "column label": "label"}
    assert source.dropped == {"empty captions": 1}
    assert source.shuffled
    assert source[0].captions[0].language == "de"


@pytest.mark.parametrize("ending", FORMATS)
def test_columns_can_be_mapped(here, ending):
    rows = [{"FILE": "a.png", "TITLE": "x", "caption": "y"}]
    source = TableSource(write(here / f"t.{ending}", rows), columns={"image": "FILE", "caption": "TITLE"})
    assert [c.text for c in source[0].captions] == ["x"]


def test_mapping_mistakes(here):
    path = write(here / "t.csv", [{"image": "a.png", "TITLE": "x"}])
    with pytest.raises(SourceError, match=r"t\.csv: no column 'NAME'") as caught:
        TableSource(path, columns={"caption": "NAME"})
    assert "image, TITLE" in str(caught.value)
    with pytest.raises(UnknownNameError, match="unknown column 'captoin'") as caught:
        TableSource(path, columns={"captoin": "TITLE"})
    assert "did you mean 'caption'" in str(caught.value)


@pytest.mark.parametrize("ending", FORMATS)
def test_no_column_of_use_names_what_is_there(tmp_path, ending):
    path = write(tmp_path / f"t.{ending}", [{"URL": "a", "TITLE": "b"}])
    with pytest.raises(SourceError, match="no column caption or captions or image") as caught:
        TableSource(path)
    assert "found: URL, TITLE" in str(caught.value)
    assert "--column caption=TITLE" in str(caught.value)


def test_caption_and_captions_together_want_a_word(here):
    path = write(here / "t.jsonl", [{"image": "a.png", "caption": "one", "captions": ["one", "two"]}])
    with pytest.raises(SourceError, match="both a column for 'caption' and one for 'captions'") as caught:
        TableSource(path)
    assert "--column captions=" in str(caught.value)
    assert len(TableSource(path, columns={"caption": ""})[0].captions) == 2
    assert len(TableSource(path, columns={"caption": "caption"})[0].captions) == 1


def test_ids(here):
    rows = [
        {"id": 3, "image": "a.png", "caption": "x"},
        {"id": 10, "image": "b.png", "caption": "y"},
        {"id": 3, "image": "a.png", "caption": "z"},
    ]
    for ending in FORMATS:
        source = TableSource(write(here / f"t.{ending}", rows))
        assert [(source[i].id, len(source[i].captions)) for i in range(2)] == [("3", 2), ("10", 1)]


def test_a_pool_of_texts(tmp_path):
    source = TableSource(write(tmp_path / "t.jsonl", [{"caption": "a"}, {"caption": " "}, {"caption": "a"}]))
    assert [(s.id, s.picture, s.captions[0].text) for s in map(source.__getitem__, range(2))] == [
        ("0", None, "a"),
        ("2", None, "a"),
    ]


@pytest.mark.parametrize("rows", [[], [{"caption": "  "}]])
def test_a_table_without_samples(tmp_path, rows):
    path = tmp_path / "t.csv"
    path.write_text("caption\n" + "".join(f'"{r["caption"]}"\n' for r in rows))
    with pytest.raises(SourceError, match="no samples in this table"):
        TableSource(path)


def test_an_empty_file(tmp_path):
    for ending in ("csv", "jsonl"):
        (tmp_path / f"t.{ending}").touch()
        with pytest.raises(SourceError, match="no column caption or captions or image"):
            TableSource(tmp_path / f"t.{ending}")
    (tmp_path / "t.parquet").touch()
    with pytest.raises(SourceError, match="not a Parquet file"):
        TableSource(tmp_path / "t.parquet")


@pytest.mark.parametrize("ending", FORMATS)
def test_a_source_travels_to_another_process(here, ending):
    source = TableSource(write(here / f"t.{ending}", RECORDS))
    assert facts(pickle.loads(pickle.dumps(source))) == facts(source)  # noqa: S301 - our own bytes


def test_indexes_outside(here):
    source = TableSource(write(here / "t.csv", RECORDS))
    for index in (3, -1):
        with pytest.raises(IndexError):
            source[index]
    assert source[np.int64(2)].id == "übung/ç é.png"


# Where pictures are looked for


def test_beside_the_table_then_in_images(tmp_path):
    pictures(tmp_path, "a.png", "images/a.png", "images/sub/b.png")
    (tmp_path / "images" / "a.png").write_bytes(png("blue"))
    source = TableSource(write(tmp_path / "t.csv", [{"image": "./a.png"}, {"image": "sub//b.png"}]))
    assert [source[i].id for i in range(2)] == ["a.png", "sub/b.png"]
    assert source[0].picture.open().getpixel((0, 0)) == (255, 0, 0)
    assert source[1].picture.open().size == (6, 4)


def test_under_the_image_root_and_only_there(tmp_path):
    pictures(tmp_path, "a.png", "root/b.png")
    path = write(tmp_path / "t.csv", [{"image": "a.png"}, {"image": "b.png"}])
    source = TableSource(path, image_root=tmp_path / "root")
    assert source[1].picture.open().size == (6, 4)
    with pytest.raises(UnreadableImage, match=r"^file not found$"):
        source[0].picture.open()
    with pytest.raises(SourceError, match="image root is not a folder"):
        TableSource(path, image_root=tmp_path / "nowhere")


def test_absolute_paths_become_relative_to_the_image_root(tmp_path):
    pictures(tmp_path, "root/sub/b.png", "other.png")
    path = write(tmp_path / "t.csv", [{"image": str(tmp_path / "root" / "sub" / "b.png")}])
    source = TableSource(path, image_root=tmp_path / "root")
    assert (source[0].id, source[0].picture.ref) == ("sub/b.png", "sub/b.png")
    with pytest.raises(SourceError, match="line 2: an absolute path outside --image-root"):
        TableSource(path)
    path = write(tmp_path / "t.csv", [{"image": "b.png"}, {"image": str(tmp_path / "other.png")}])
    with pytest.raises(SourceError, match="line 3: an absolute path outside --image-root"):
        TableSource(path, image_root=tmp_path / "root")


@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "..", "images/../../x.png"])
@pytest.mark.parametrize("ending", FORMATS)
def test_paths_that_climb_out(here, name, ending):
    path = write(here / f"t.{ending}", [{"image": "a.png"}, {"image": name}])
    with pytest.raises(SourceError, match="a path leaves the image folder") as caught:
        TableSource(path)
    place = {"parquet": "row 1", "jsonl": "line 2"}.get(ending, "line 3")
    assert f"t.{ending}, {place}" in str(caught.value)


def test_dots_that_stay_inside(here):
    source = TableSource(
        write(here / "t.csv", [{"image": "x/../a.png"}, {"image": "..a.png"}, {"image": "a.png"}])
    )
    assert [source[i].id for i in range(len(source))] == ["a.png", "..a.png"]


def test_urls(here):
    path = write(here / "t.csv", [{"image": "a.png"}, {"image": "https://example.org/a.png"}])
    with pytest.raises(SourceError, match="line 3: a picture is named by a URL") as caught:
        TableSource(path)
    assert "download the pictures" in str(caught.value)


def test_missing_pictures_wait_for_the_quarantine_unless_all_are_missing(here):
    source = TableSource(write(here / "t.csv", [{"image": "nowhere.png"}, {"image": "a.png"}]))
    assert source[0].picture.nbytes is None
    with pytest.raises(UnreadableImage, match=r"^file not found$"):
        source[0].picture.open()
    with pytest.raises(SourceError, match="not one of the pictures is there") as caught:
        TableSource(write(here / "t.csv", [{"image": "x.png"}, {"image": "y.png"}]))
    assert "tried x.png and images/x.png, relative to the table's folder" in str(caught.value)
    assert str(here) not in str(caught.value)


# What is refused, with its row


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        (b"caption\na\n\xff\xfe\n", "line 3", "not UTF-8"),
        (b"caption\na\n\nb\0c\n", "line 4", "a NUL byte in column 'caption'"),
        (b'caption,split\n"a\nb",x\n"c,y\n', "line 4", "not valid csv"),
        (b'caption,split\n"a\nb",x\n"c"d,y\n', "line 4", "not valid csv"),
        (b'caption,split\n"a\nb",x\n\nc\n', "line 5", "another length than the header"),
        (b"caption,split\na,b,c\n", "line 2", "another length than the header"),
        (b'captions\n"[""a""]"\nhello\n', "line 3", "not a list of texts"),
        (b"captions\n7\n", "line 2", "not a list of texts"),
        (b'captions\n"[1]"\n', "line 2", "is not text"),
        (b"caption,caption\na,b\n", "t.csv", "a column name stands twice"),
        (b"caption,role\na,caption\nb,title\n", "line 3", "not a role"),
    ],
)
def test_csv_mistakes(tmp_path, text, where, what):
    (tmp_path / "t.csv").write_bytes(text)
    with pytest.raises(SourceError, match=what) as caught:
        TableSource(tmp_path / "t.csv")
    assert where in str(caught.value)


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        (b'{"caption": "a"}\n\n{"caption": "\xff"}\n', "line 3", "not UTF-8"),
        (b'{"caption": "a"}\n\n{"caption": "b\\u0000"}\n', "line 3", "a NUL byte"),
        (b'{"caption": "a"}\n{"caption": "\\ud83d"}\n', "line 2", "a lone surrogate in column 'caption'"),
        (b'{"captions": ["a", "\\ud83d"]}\n', "line 1", "a lone surrogate"),
        (b'{"captions": ["a"]}\n{"captions": ["a", "b\\u0000"]}\n', "line 2", "a NUL byte"),
        (b'{"caption": "a"}\n{"caption": }\n', "line 2", "not valid JSON"),
        (b'{"caption": "a"}\n["b"]\n', "line 2", "not a JSON object"),
        (b'{"caption": "a"}\n{"caption": 3}\n', "line 2", "'caption' is not text"),
        (b'{"caption": "a", "label": 1.5}\n', "line 1", "'label' is not text"),
        (b'{"caption": "a", "label": true}\n', "line 1", "'label' is not text"),
        (b'{"captions": "ab"}\n', "line 1", "not a list of texts"),
        (b'{"captions": [["a"]]}\n', "line 1", "is not text"),
        (b'{"caption": "a"}\n' + b"[" * 100_000 + b"\n", "line 2", "not valid JSON"),
    ],
)
def test_jsonl_mistakes(tmp_path, text, where, what):
    (tmp_path / "t.jsonl").write_bytes(text)
    with pytest.raises(SourceError, match=what) as caught:
        TableSource(tmp_path / "t.jsonl")
    assert where in str(caught.value)


@pytest.mark.parametrize(
    ("column", "where", "what"),
    [
        ({"caption": pa.array(["a", "b\0"])}, "row 1", "a NUL byte"),
        ({"caption": pa.array([b"a", b"\xff"])}, "row 1", "not UTF-8"),
        ({"caption": pa.array([1.5])}, "t.parquet", "'caption' is not text"),
        ({"captions": pa.array(["a"])}, "t.parquet", "'captions' is not a list of texts"),
        ({"captions": pa.array([[1]])}, "t.parquet", "'captions' is not a list of texts"),
        ({"image": pa.array([{"x": 1}])}, "t.parquet", "holds no picture"),
        ({"image": pa.array([png(), None])}, "row 1", "no image in this row"),
    ],
)
def test_parquet_mistakes(tmp_path, column, where, what):
    pq.write_table(pa.table(column), tmp_path / "t.parquet")
    with pytest.raises(SourceError, match=what) as caught:
        TableSource(tmp_path / "t.parquet")
    assert where in str(caught.value)


def test_a_byte_order_mark_and_windows_line_ends(here):
    (here / "t.csv").write_bytes(b"\xef\xbb\xbfimage, caption\r\na.png, x\r\n")
    assert facts(TableSource(here / "t.csv"))[0][0] == "a.png"
    (here / "t.jsonl").write_bytes(b'\xef\xbb\xbf{"image": "a.png"}\r\n')
    assert facts(TableSource(here / "t.jsonl"))[0][0] == "a.png"


# Parquet of other people


def test_parquet_types_that_mean_text(here):
    table = pa.table(
        {
            "image": pa.array(["a.png", "b.png", "a.png"]).dictionary_encode(),
            "captions": pa.array([["x"], ["y", "z"], None], pa.list_(pa.string())),
            "label": pa.array([1, 2, 1], pa.int8()),
            "split": pa.array([b"train", b"test", b"train"]),
            "other": pa.array([{"a": 1}] * 3),
        }
    )
    pq.write_table(table, here / "t.parquet", row_group_size=2)
    found = facts(TableSource(here / "t.parquet"))
    assert [(f[0], [c.text for c in f[2]], f[3], f[4]) for f in found] == [
        ("a.png", ["x"], "1", "train"),
        ("b.png", ["y", "z"], "2", "test"),
    ]


def test_pictures_as_bytes_are_grouped_by_their_bytes(tmp_path):
    red, blue = png("red"), png("blue")
    rows = [{"image": red, "caption": "a"}, {"image": blue, "caption": "b"}, {"image": red, "caption": "c"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet", row_group_size=1)
    source = TableSource(tmp_path / "t.parquet")
    assert [len(source[i].captions) for i in range(len(source))] == [2, 1]
    assert source[0].id == source[0].picture.ref == hashlib.blake2b(red, digest_size=16).hexdigest()
    assert source[1].picture.nbytes == len(blue)
    assert source[1].picture.open().getpixel((0, 0)) == (0, 0, 255)
    copy = pickle.loads(pickle.dumps(source[1].picture))  # noqa: S301 - our own bytes
    assert copy.open().getpixel((0, 0)) == (0, 0, 255)


@pytest.mark.parametrize(
    ("paths", "named"),
    [
        (["x/a.png", "x/b.png"], True),
        (["a.png", "a.png"], False),
        (["/home/someone/a.png", "/home/someone/b.png"], False),
        ([None, None], False),
    ],
)
def test_structs_of_bytes_and_path(tmp_path, paths, named):
    rows = [{"image": {"bytes": png(c), "path": p}} for c, p in zip(("red", "blue"), paths, strict=True)]
    source = TableSource(write(tmp_path / "t.parquet", rows))
    ids = [source[i].id for i in range(len(source))]
    assert len(set(ids)) == 2
    assert (ids == paths) == named
    assert [source[i].picture.open().getpixel((0, 0)) for i in range(2)] == [(255, 0, 0), (0, 0, 255)]


def test_structs_with_a_path_alone(here):
    for rows in ([{"image": {"path": "a.png"}}], [{"image": {"bytes": None, "path": "a.png"}}]):
        source = TableSource(write(here / "t.parquet", rows))
        assert source[0].picture.open().size == (6, 4)
    assert TableSource(write(here / "t.jsonl", rows))[0].picture.open().size == (6, 4)


def test_ids_for_pictures_as_bytes(tmp_path):
    rows = [{"image": png("red"), "id": 5, "caption": "a"}, {"image": png("red"), "id": 5, "caption": "b"}]
    source = TableSource(write(tmp_path / "t.parquet", rows))
    assert (len(source), source[0].id, len(source[0].captions)) == (1, "5", 2)
    rows[1]["image"] = png("blue")
    with pytest.raises(SourceError, match="one id stands for two pictures"):
        TableSource(write(tmp_path / "t.parquet", rows))


def test_more_pictures_than_fit_keep_their_order_and_little_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_bytes, "KEEP_BYTES", 400)
    colours = [(i, 0, 0) for i in range(30)]
    rows = [{"image": png(c)} for c in colours]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet", row_group_size=3)
    source = TableSource(tmp_path / "t.parquet")
    assert not source.shuffled
    assert [source[i].picture.open().getpixel((0, 0)) for i in range(30)] == colours
    assert source[0].picture.open().getpixel((0, 0)) == (0, 0, 0)
    assert len(source[0].picture.store._groups) <= 2


SHARED = Path(__file__).parents[3] / "shared" / "data" / "flickr8k-1k"


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="needs the data folder beside the project")
def test_real_captions():
    source = TableSource(SHARED / "captions.csv")
    samples = [source[i] for i in range(len(source))]
    assert len(samples) == 1000
    assert {len(s.captions) for s in samples} == {5}
    assert {s.split: sum(t.split == s.split for t in samples) for s in samples} == {"train": 800, "test": 200}
    assert min(samples[7].picture.open().size) == 256
