"""Text files per language beside one list of pictures, as XTD-10 and Multi30k have them."""

from __future__ import annotations

import pytest

from embedstore.errors import SourceError, UsageError
from embedstore.sources import open_source
from embedstore.testing.sources import SourceContract

NAMES = [f"COCO_train2014_{k:012d}.jpg" for k in (61844, 61849, 61850)]
TEXTS = {
    "XTD10/test_1kcaptions_es.txt": ["Un tren rojo", "  Dos perros ", "Una mesa"],
    "XTD10/test_1kcaptions_zh.txt": ["一列红色的火车", "", "一张桌子"],
    "MIC/test_1kcaptions_en.txt": ["A red train", "Two dogs", "A table"],
    "MIC/test_1kcaptions_de.txt": ["Ein roter Zug", "Zwei Hunde", "Ein Tisch"],
    "STAIR/test_1kcaptions_jp.txt": ["赤い電車", "二匹の犬", "机"],
}


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


@pytest.fixture
def xtd(tmp_path, draw):
    root = tmp_path / "xtd"
    write(root / "XTD10" / "test_image_names.txt", NAMES)
    for name, lines in TEXTS.items():
        write(root / name, lines)
    draw(root / "images" / "train2014", *NAMES)
    return root


class TestContract(SourceContract):
    @pytest.fixture
    def source(self, xtd):
        return open_source(f"xtd:{xtd}")


def test_every_picture_has_its_line_of_every_language(xtd):
    source = open_source(f"xtd:{xtd}")
    assert [source[i].id for i in range(3)] == NAMES
    assert [(c.language, c.text, c.role) for c in source[1].captions] == [
        ("de", "Zwei Hunde", "caption"),
        ("en", "Two dogs", "caption"),
        ("es", "Dos perros", "caption"),
        ("ja", "二匹の犬", "caption"),
    ]
    assert [c.language for c in source[0].captions] == ["de", "en", "es", "ja", "zh"]
    assert {source[i].split for i in range(3)} == {"test"}
    assert source[2].picture.open().size == (6, 4)
    assert source.dropped == {"empty captions": 1}
    assert source.identity == {"kind": "xtd", "languages": "de,en,es,ja,zh", "language": "en"}


def test_multi30k_by_its_names(tmp_path, draw):
    write(tmp_path / "image_splits" / "test_2016_flickr.txt", ["1.jpg", "2.jpg"])
    write(tmp_path / "raw" / "test_2016_flickr.en", ["one", "two"])
    write(tmp_path / "raw" / "test_2016_flickr.fr", ["un", "deux"])
    draw(tmp_path / "images", "1.jpg", "2.jpg")
    source = open_source(f"xtd:{tmp_path}?names=test_2016_flickr.txt&captions=test_2016_flickr.{{language}}")
    assert [[c.text for c in source[i].captions] for i in range(2)] == [["one", "un"], ["two", "deux"]]
    assert source[0].split == "test"


def test_the_same_file_twice_is_one(xtd):
    write(xtd / "XTD10" / "test_1kcaptions_en.txt", TEXTS["MIC/test_1kcaptions_en.txt"])
    assert len(open_source(f"xtd:{xtd}")[0].captions) == 5
    write(xtd / "XTD10" / "test_1kcaptions_en.txt", ["A", "B", "C"])
    with pytest.raises(SourceError, match="two different files for the language 'en'") as caught:
        open_source(f"xtd:{xtd}")
    assert "MIC/test_1kcaptions_en.txt and XTD10/test_1kcaptions_en.txt" in str(caught.value)


@pytest.mark.parametrize(
    ("file", "lines", "what", "where"),
    [
        ("MIC/test_1kcaptions_en.txt", ["A", "B"], "another number of lines", "found: 2"),
        ("MIC/test_1kcaptions_en.txt", ["A", "B", "C", "D"], "another number of lines", "found: 4"),
        ("MIC/test_1kcaptions_en.txt", [], "another number of lines", "found: 0"),
        ("MIC/test_1kcaptions_en.txt", ["A", "B\0", "C"], "a NUL byte", "test_1kcaptions_en.txt, line 2"),
        ("XTD10/test_image_names.txt", [NAMES[0], "", NAMES[2]], "a blank line", "line 2"),
        ("XTD10/test_image_names.txt", [NAMES[0], NAMES[1], NAMES[0]], "listed twice", "lines 1 and 3"),
        ("XTD10/test_image_names.txt", ["../a.jpg", *NAMES[1:]], "leaves the image folder", "line 1"),
        ("XTD10/test_image_names.txt", ["a", "b", "c"], "not one of the pictures is there", "images/a"),
        ("MIC/test_image_names.txt", NAMES, "more than one list of pictures", "xtd:FOLDER?names=FILE"),
    ],
)
def test_files_that_are_refused(xtd, file, lines, what, where):
    write(xtd / file, lines)
    with pytest.raises(SourceError) as caught:
        open_source(f"xtd:{xtd}")
    assert what in str(caught.value)
    assert where in str(caught.value)


def test_what_is_not_there(xtd, tmp_path):
    with pytest.raises(SourceError, match="no list of pictures names"):
        open_source(f"xtd:{xtd}?names=names.txt")
    with pytest.raises(SourceError, match="no caption files"):
        open_source(f"xtd:{xtd}?captions=x_{{language}}.txt")
    with pytest.raises(UsageError, match="bad name of the list"):
        open_source(f"xtd:{xtd}?captions=x.txt")
    with pytest.raises(UsageError, match="unknown option 'name'"):
        open_source(f"xtd:{xtd}?name=x.txt")
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match="not a folder"):
        open_source(f"xtd:{tmp_path / 'file'}")
