"""Data sets as the `datasets` library saves, caches and exports them, read without it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from embedstore.errors import SourceError, UnknownNameError, UnreadableImage, UsageError
from embedstore.sources import open_source
from embedstore.sources.hf.source import HfSource
from embedstore.sources.reading import arrow_parts
from embedstore.testing.sources import SourceContract

datasets = pytest.importorskip("datasets")


def encoded(number):
    out = io.BytesIO()
    Image.new("RGB", (9, 5 + number), f"#{number:02x}8040").save(out, "PNG")
    return out.getvalue()


def held(number):
    return {"bytes": encoded(number), "path": f"{number}.png"}


def made(first=0, count=11):
    numbers = range(first, first + count)
    kinds = {
        "image": datasets.Image(),
        "caption": datasets.List(datasets.Value("string")),
        "label": datasets.ClassLabel(names=["dog", "cat"]),
    }
    return datasets.Dataset.from_dict(
        {
            "image": [held(i) for i in numbers],
            "caption": [[f"first of {i}", f"second of {i} é"] for i in numbers],
            "label": [i % 2 if i % 5 else -1 for i in numbers],
        },
        features=datasets.Features(kinds),
    )


@pytest.fixture
def splits():
    return datasets.DatasetDict({"train": made(), "test": made(20, 4)})


def facts(source):
    samples = [source[i] for i in range(len(source))]
    return [(s.id, [c.text for c in s.captions], s.label, s.split) for s in samples]


def pixels(source):
    return [source[i].picture.open().tobytes() for i in range(len(source))]


@pytest.fixture(params=["saved", "single", "parquet", "cache", "plain"])
def place(request, splits, tmp_path, monkeypatch):
    """The same rows in every layout: (spec, whether the test split is there)."""
    root = tmp_path / "d"
    if request.param == "saved":
        splits.save_to_disk(root, num_shards={"train": 3, "test": 1})
    elif request.param == "single":
        splits["train"].save_to_disk(root)
        return str(root), False
    elif request.param == "parquet":
        (root / "data").mkdir(parents=True)
        splits["train"].select(range(6)).to_parquet(root / "data" / "train-00000-of-00002.parquet")
        splits["train"].select(range(6, 11)).to_parquet(root / "data" / "train-00001-of-00002-0a1b.parquet")
        splits["test"].to_parquet(root / "data" / "test-00000-of-00001.parquet")
        return f"hf:{root}", True
    elif request.param == "plain":
        root.mkdir()
        splits["train"].to_parquet(root / "my_training.parquet", batch_size=4)
        splits["test"].to_parquet(root / "my-eval.parquet")
        return f"hf:{root}", True
    else:
        files = {}
        for name, one in splits.items():
            one.to_parquet(tmp_path / f"{name}.parquet")
            files[name] = str(tmp_path / f"{name}.parquet")
        cache = tmp_path / "cache"
        datasets.load_dataset("parquet", data_files=files, cache_dir=str(cache))
        (folder,) = (path.parent for path in cache.glob("**/dataset_info.json"))
        return str(folder), True
    return str(root), True


def test_rows_are_those_of_the_library(place, splits):
    spec, with_test = place
    source = open_source(spec)
    found = facts(source)
    names = ["dog", "cat"]
    k = 0
    for split in ["train", "test"] if with_test else ["train"]:
        for number, row in enumerate(splits[split]):
            label = None if row["label"] == -1 else names[row["label"]]
            assert found[k] == (f"{split}/{number}", row["caption"], label, split)
            assert source[k].picture.open().tobytes() == row["image"].convert("RGB").tobytes()
            k += 1
    assert k == len(source)
    assert source.classes == ("dog", "cat")
    assert source.shuffled
    again = pickle.loads(pickle.dumps(source))  # noqa: S301 - our own
    assert pixels(again) == pixels(source)


class TestContractOfASavedOne(SourceContract):
    @pytest.fixture
    def source(self, splits, tmp_path):
        splits.save_to_disk(tmp_path / "d")
        return open_source(f"hf:{tmp_path / 'd'}")


class TestContractOfParquet(SourceContract):
    @pytest.fixture
    def source(self, splits, tmp_path):
        (tmp_path / "d").mkdir()
        splits["train"].to_parquet(tmp_path / "d" / "train.parquet")
        return open_source(f"hf:{tmp_path / 'd'}")


def test_one_split(splits, tmp_path):
    splits.save_to_disk(tmp_path / "d")
    source = open_source(f"hf:{tmp_path / 'd'}?split=test")
    assert {f[3] for f in facts(source)} == {"test"}
    assert source.identity["split"] == "test"
    with pytest.raises(UsageError, match="no split 'val'") as caught:
        open_source(f"hf:{tmp_path / 'd'}?split=val")
    assert "test, train" in str(caught.value)


def test_sizes_are_known_and_no_picture_is_read(splits, tmp_path, monkeypatch):
    splits.save_to_disk(tmp_path / "d")
    monkeypatch.setattr("embedstore.sources.reading.shards.Shards.read", None)
    source = open_source(f"hf:{tmp_path / 'd'}")
    assert [source[i].picture.nbytes for i in range(11)] == [len(encoded(i)) for i in range(11)]


def test_names_are_found_in_the_caches(splits, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match="no such data set in the cache") as caught:
        open_source("hf:somebody/pictures")
    assert "hf download --repo-type dataset somebody/pictures" in str(caught.value)
    # The Hub's cache: a snapshot of links to blobs.
    hub = tmp_path / "home" / "hub" / "datasets--somebody--pictures"
    (hub / "blobs").mkdir(parents=True)
    (hub / "snapshots" / "abc" / "data").mkdir(parents=True)
    splits["train"].to_parquet(hub / "blobs" / "0")
    (hub / "snapshots" / "abc" / "data" / "train-00000-of-00001.parquet").symlink_to("../../../blobs/0")
    (hub / "snapshots" / "abc" / "README.md").write_text("# x")
    assert len(open_source("hf:somebody/pictures")) == 11
    (hub / "snapshots" / "def").mkdir()
    with pytest.raises(SourceError, match="several copies"):
        open_source("hf:somebody/pictures")
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("abc")
    assert len(open_source("hf:somebody/pictures")) == 11
    # A prepared copy of the `datasets` library goes first.
    ready = tmp_path / "home" / "datasets" / "somebody___pictures" / "default" / "0.0.0" / "f00"
    splits["test"].save_to_disk(tmp_path / "t")
    ready.mkdir(parents=True)
    (tmp_path / "t" / "data-00000-of-00001.arrow").rename(ready / "pictures-test.arrow")
    (ready / "cache-0123.arrow").touch()
    (ready / "dataset_info.json").write_text('{"splits": {"test": {}}}')
    assert {f[3] for f in facts(open_source("hf:somebody/pictures"))} == {"test"}


def test_configs(splits, tmp_path):
    for config in ("de", "en"):
        (tmp_path / "d" / config).mkdir(parents=True)
        splits["test"].to_parquet(tmp_path / "d" / config / "train-00000-of-00001.parquet")
    assert len(open_source(f"hf:{tmp_path / 'd'}?config=de")) == 4
    with pytest.raises(UsageError, match="several configs") as caught:
        open_source(f"hf:{tmp_path / 'd'}")
    assert "config=de" in str(caught.value)
    with pytest.raises(UsageError, match="no config 'fr'"):
        open_source(f"hf:{tmp_path / 'd'}?config=fr")


def one(tmp_path, table, name="train.parquet", **options):
    folder = tmp_path / "one"
    folder.mkdir(exist_ok=True)
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), folder / name)
    return HfSource(folder, **options)


def test_columns_by_name(tmp_path):
    rows = {
        "image": [{"bytes": encoded(i), "path": None} for i in range(2)],
        "caption_0": ["a", "b"],
        "caption_1": ["c", None],
        "id": [7, 8],
        "title": ["T", "U"],
        "split": ["val", None],
        "language": ["de", "??"],
        "label": [3, 10],
        "text": ["not", "read"],
    }
    source = one(tmp_path, rows)
    assert facts(source) == [("7", ["a", "c"], "3", "val"), ("8", ["b"], "10", "train")]
    assert [c.language for i in range(2) for c in source[i].captions] == ["de", "de", "en"]
    assert source.classes == ("3", "10")
    assert source.dropped == {"languages that are no tag, e.g. en": 1}
    other = one(tmp_path, rows, columns={"caption": "title;text", "id": "", "image": "", "label": "title"})
    assert facts(other) == [("train/0", ["T", "not"], "T", "val"), ("train/1", ["U", "read"], "U", "train")]
    assert other[0].picture is None
    with pytest.raises(SourceError, match="no column 'titel'") as caught:
        one(tmp_path, rows, columns={"caption": "titel"})
    assert "caption_0" in str(caught.value)
    with pytest.raises(UnknownNameError, match="did you mean 'caption'"):
        one(tmp_path, rows, columns={"captoin": "title"})


def test_columns_that_say_too_little(tmp_path):
    with pytest.raises(SourceError, match="no column of pictures or captions") as caught:
        one(tmp_path, {"words": ["x"], "picture": [b"x"]})
    assert "words, picture" in str(caught.value)
    with pytest.raises(SourceError, match="holds no pictures"):
        one(tmp_path, {"image": ["a.png"], "text": ["x"]})
    assert facts(one(tmp_path, {"image": ["a.png"], "text": ["x"]}, columns={"image": ""}))[0][1] == ["x"]
    two = datasets.Features({"left": datasets.Image(), "right": datasets.Image()})
    datasets.Dataset.from_dict({"left": [held(1)], "right": [held(2)]}, features=two).save_to_disk(
        tmp_path / "two"
    )
    with pytest.raises(SourceError, match="several columns of pictures") as caught:
        open_source(str(tmp_path / "two"))
    assert "image=left" in str(caught.value)
    assert open_source(str(tmp_path / "two"), columns={"image": "right"})[0].picture.open().size == (9, 7)


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_rows_without_pictures(tmp_path, kind):
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    pictures = [held(0), None, None, {"bytes": b"no picture", "path": None}]
    rows = datasets.Dataset.from_dict({"image": pictures, "text": ["a", "b", "", "d"]}, features=features)
    if kind == "arrow":
        rows.save_to_disk(tmp_path / "d")
    else:
        (tmp_path / "d").mkdir()
        rows.to_parquet(tmp_path / "d" / "x.parquet")
    source = open_source(f"hf:{tmp_path / 'd'}")
    assert [(s.id, s.picture is None) for s in (source[i] for i in range(3))] == [
        ("train/0", False),
        ("train/1", True),
        ("train/3", False),
    ]
    assert source.dropped == {"empty captions": 1, "rows without picture or text": 1}
    with pytest.raises(UnreadableImage, match="not an image"):
        source[2].picture.open()


def test_pictures_that_lie_outside(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(1))
    features = datasets.Features({"image": datasets.Image()})
    with pytest.raises(SourceError, match="no samples in this data set") as caught:
        one(
            tmp_path,
            datasets.Dataset.from_dict({"image": [str(tmp_path / "a.png")]}, features=features).data.table,
        )
    assert "folder:PATH" in str(caught.value)


def test_texts_that_are_none_are_counted(tmp_path):
    bad = pa.Array.from_buffers(
        pa.string(), 4, [None, pa.py_buffer(np.array([0, 1, 3, 4, 5], np.int32)), pa.py_buffer(b"ab\xffc\0")]
    )
    source = one(tmp_path, pa.table({"text": bad, "label": [b"x", b"\xff", None, b"z"]}))
    assert [f[1] for f in facts(source)] == [["a"], ["c"]]
    assert source.dropped == {
        "captions that are not UTF-8": 1,
        "captions with a NUL byte": 1,
        "rows without picture or text": 2,
    }
    source = one(tmp_path, {"text": [["a", None], []], "label": [1.5, None]})
    assert facts(source) == [("train/0", ["a"], None, "train")]
    assert source.dropped["labels that are no text"] == 1
    with pytest.raises(SourceError, match="no samples"):
        one(tmp_path, {"text": [1, 2]})


def test_ids_that_stand_twice(tmp_path):
    with pytest.raises(SourceError, match="two samples share an id") as caught:
        one(tmp_path, {"text": ["a", "b"], "id": [1, 1]})
    assert "--column id=" in str(caught.value)
    with pytest.raises(SourceError, match="no id in this row"):
        one(tmp_path, {"text": ["a", "b"], "id": [1, None]})
    assert len(one(tmp_path, {"text": ["a", "b"], "id": [1, 1]}, columns={"id": ""})) == 2


def test_many_pictures_keep_the_order_of_the_data_set(tmp_path, monkeypatch):
    table = pa.table({"image": [encoded(i) for i in range(40)], "text": [str(i) for i in range(40)]})
    folder = tmp_path / "d"
    folder.mkdir()
    for k in range(2):
        pq.write_table(table, folder / f"train-0000{k}-of-00002.parquet", row_group_size=7)
    monkeypatch.setattr(arrow_parts, "KEEP_BYTES", 2_000)
    source = HfSource(folder)
    assert not source.shuffled
    assert pixels(source) == 2 * [Image.open(io.BytesIO(encoded(i))).tobytes() for i in range(40)]
    kept = source._groups._kept
    assert 0 < sum(group.nbytes for group in kept.values()) <= 2_000
    monkeypatch.setattr(arrow_parts, "MOST_GROUP", 10)
    with pytest.raises(SourceError, match="a row group too large"):
        HfSource(folder)


def damaged(folder, how):
    path = next(iter(sorted(folder.glob("*.arrow"))))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3] if how == "cut" else b"<html>" * 50)


@pytest.mark.parametrize("how", ["cut", "other"])
def test_damaged_arrow_files(tmp_path, how):
    made().save_to_disk(tmp_path / "d")
    damaged(tmp_path / "d", how)
    with pytest.raises(SourceError, match=r"data-00000-of-00001\.arrow: (a damaged Arrow file|not a file)"):
        open_source(str(tmp_path / "d"))


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_flipped_bytes_end_in_one_error_or_in_broken_pictures(tmp_path, kind):
    path = tmp_path / ("data-00000-of-00001.arrow" if kind == "arrow" else "train.parquet")
    if kind == "arrow":
        made(count=3).save_to_disk(tmp_path)
    else:
        made(count=3).to_parquet(path)
    good = path.read_bytes()
    # Where the descriptions and offsets stand: at the front of Arrow files, at the end of Parquet.
    first = 0 if kind == "arrow" else max(0, len(good) - 1500)
    rng = np.random.default_rng(7)
    refused = 0
    for _ in range(250):
        data = bytearray(good)
        for place in rng.integers(first, min(len(good), first + 1800), rng.integers(1, 5)):
            data[place] = rng.choice([0, 128, 255, rng.integers(256)])
        path.write_bytes(data)
        try:
            source = HfSource(tmp_path)
        except (SourceError, UsageError):
            refused += 1
            continue
        for picture in (source[i].picture for i in range(len(source))):
            with contextlib.suppress(UnreadableImage):
                _ = picture and picture.open()
    assert 20 < refused < 250


@pytest.mark.parametrize("data", [b"PAR1", b"<html>" * 50, b""])
def test_damaged_parquet_files(tmp_path, data):
    (tmp_path / "x.parquet").write_bytes(data)
    with pytest.raises(SourceError, match=r"x\.parquet: not a"):
        open_source(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("state.json", '{"_data_files": [{"filename": "../../secret.arrow"}]}'),
        ("state.json", '{"_data_files": [{"filename": "/etc/passwd"}]}'),
        ("state.json", '{"_data_files": 3}'),
        ("state.json", "[1]"),
        ("state.json", "[" * 9000),
        ("dataset_dict.json", '{"splits": ["../up"]}'),
        ("dataset_dict.json", '{"splits": "train"}'),
        ("dataset_info.json", "{}"),
    ],
)
def test_descriptions_that_lead_out_or_say_nothing(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(SourceError, match=r"damaged|not a JSON object|no Arrow files"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("names", [["a", "a"], "ab", [1], [""]])
def test_class_names_that_are_none(tmp_path, names):
    info = {"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}}
    table = pa.table({"text": ["x"], "label": [0]}).replace_schema_metadata({"huggingface": json.dumps(info)})
    with pytest.raises(SourceError, match="class name"):
        one(tmp_path, table)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"text": ["b"]}, "no column 'image', which the first file of the data set has"),
        ({"image": [b"b"]}, "no column 'text'"),
        ({"text": ["b"], "image": [7]}, "column 'image' holds no pictures"),
        ({"text": ["b"], "image": [[b"b"]]}, "column 'image' holds no pictures"),
        ({"text": ["b"], "image": [{"path": "b"}]}, "column 'image' holds no pictures"),
        (
            {"text": ["b"], "image": pa.array([b"abcd" * 9], pa.binary_view())},
            "column 'image' holds no pictures",
        ),
    ],
)
def test_files_of_other_columns_than_the_first(tmp_path, other, what):
    datasets.Dataset.from_dict({"image": [b"a"] * 2, "text": ["a"] * 2}).save_to_disk(tmp_path, num_shards=2)
    file, table = tmp_path / "data-00001-of-00002.arrow", pa.table(other)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    with pytest.raises(SourceError, match=rf"{file.name}: .*{what}"):
        open_source(f"hf:{tmp_path}")


def test_parquet_files_of_other_columns_than_the_first(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "train-00000-of-00002.parquet")
    pq.write_table(pa.table({"caption": ["b"]}), tmp_path / "train-00001-of-00002.parquet")
    with pytest.raises(SourceError, match=r"00001-of-00002\.parquet: no column 'text'(.|\n)*found: caption"):
        open_source(f"hf:{tmp_path}")


def test_a_named_pipe_among_the_files_is_refused(tmp_path):
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "set")
    (file,) = (tmp_path / "set").glob("*.arrow")
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(SourceError, match=rf"state.json names is not there\n  found: {file.name}"):
        open_source(f"hf:{tmp_path / 'set'}")


def test_nothing_of_a_data_set_is_run(tmp_path):
    made().save_to_disk(tmp_path / "d")
    (tmp_path / "d" / "d.py").write_text("raise SystemExit('run')")
    assert len(open_source(str(tmp_path / "d"))) == 11
    assert "datasets" not in HfSource.__init__.__globals__


def test_a_place_that_is_no_data_set(tmp_path):
    with pytest.raises(SourceError, match="no such data set"):
        open_source("hf:/nowhere/at/all")
    (tmp_path / "words.txt").write_text("x")
    with pytest.raises(SourceError, match="no data set in this folder"):
        open_source(f"hf:{tmp_path}")
