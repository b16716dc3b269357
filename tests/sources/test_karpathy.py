"""Karpathy splits, written by hand in the published layout; the real Flickr8k pictures where they are."""

from __future__ import annotations

import csv
import json

import pytest

from embedstore.errors import SourceError, UsageError
from embedstore.sources import open_source
from embedstore.testing.sources import SourceContract


def entry(number, split, *captions, name=None, folder=None):
    sentences = [
        {"tokens": text.lower().split(), "raw": text, "imgid": number, "sentid": 10 * number + k}
        for k, text in enumerate(captions)
    ]
    found = {
        "sentids": [s["sentid"] for s in sentences],
        "imgid": number,
        "sentences": sentences,
        "split": split,
        "filename": name or f"{number}.jpg",
    }
    return found if folder is None else {"filepath": folder, "cocoid": number, **found}


COCO = [
    entry(
        1, "test", "A man with a red helmet on a small moped.", "Man riding a motor bike.", folder="val2014"
    ),
    entry(2, "restval", "A girl inside a kitchen eating.", folder="val2014"),
    entry(3, "val", "A child holding a flowered umbrella.", " ", folder="val2014"),
    entry(4, "train", "A boy standing in front of a computer.", folder="train2014"),
    entry(5, "restval", "A living room with a rug.", folder="val2014"),
]


@pytest.fixture
def coco(tmp_path, draw):
    draw(tmp_path, *(f"images/{one['filepath']}/{one['filename']}" for one in COCO))
    path = tmp_path / "dataset_coco.json"
    path.write_text(json.dumps({"images": COCO, "dataset": "coco"}))
    return path


class TestContract(SourceContract):
    @pytest.fixture
    def source(self, coco):
        return open_source(f"karpathy:{coco}")


def facts(source):
    return [(source[i].id, source[i].split, len(source[i].captions)) for i in range(len(source))]


def test_splits_are_those_of_the_file_and_restval_one_of_them(coco):
    source = open_source(str(coco))
    assert source.identity == {"kind": "karpathy", "restval": "keep", "language": "en"}
    assert facts(source) == [
        ("1.jpg", "test", 2),
        ("2.jpg", "restval", 1),
        ("3.jpg", "val", 1),
        ("4.jpg", "train", 1),
        ("5.jpg", "restval", 1),
    ]
    assert source.dropped == {"images of the split restval": 0, "empty captions": 1}
    assert source[0].captions[1].text == "Man riding a motor bike."
    assert source[0].picture.ref == "val2014/1.jpg"
    assert source[3].picture.open().size == (6, 4)


def test_what_becomes_of_restval(coco):
    joined = open_source(f"karpathy:{coco}?restval=train")
    assert [split for _, split, _ in facts(joined)] == ["test", "train", "val", "train", "train"]
    assert joined.identity["restval"] == "train"
    without = open_source(f"karpathy:{coco}?restval=drop")
    assert [name for name, _, _ in facts(without)] == ["1.jpg", "3.jpg", "4.jpg"]
    assert without.dropped["images of the split restval"] == 2
    with pytest.raises(UsageError, match="bad value of option 'restval'"):
        open_source(f"karpathy:{coco}?restval=yes")


def test_only_some_splits(coco):
    source = open_source(f"karpathy:{coco}?splits=val,test")
    assert [name for name, _, _ in facts(source)] == ["1.jpg", "3.jpg"]
    assert source.identity["splits"] == "val,test"
    joined = open_source(f"karpathy:{coco}?splits=train&restval=train")
    assert [name for name, _, _ in facts(joined)] == ["2.jpg", "4.jpg", "5.jpg"]
    with pytest.raises(SourceError, match="no split 'dev'") as caught:
        open_source(f"karpathy:{coco}?splits=dev,test")
    assert "restval, test, train, val" in str(caught.value)


def test_flickr_has_no_folders(tmp_path, draw):
    images = [entry(k, "train", "a dog runs") for k in range(3)]
    (tmp_path / "dataset_flickr30k.json").write_text(json.dumps({"images": images, "dataset": "flickr30k"}))
    draw(tmp_path / "flickr30k-images", "0.jpg", "1.jpg", "2.jpg")
    source = open_source(f"karpathy:{tmp_path / 'dataset_flickr30k.json'}")
    assert (source[2].picture.ref, source[2].picture.open().size) == ("2.jpg", (6, 4))


@pytest.mark.parametrize(
    ("images", "what", "where"),
    [
        ([entry(1, "train", "a"), entry(1, "test", "b")], "one picture is listed twice", "images[1]"),
        ([{"filename": "1.jpg", "sentences": []}], "no 'split'", "images[0]"),
        ([{"split": "train", "sentences": []}], "no 'filename'", "images[0]"),
        ([{"split": "train", "filename": "1.jpg"}], "no 'sentences'", "images[0]"),
        ([{"split": 3, "filename": "1.jpg", "sentences": []}], "'split' is not text", "images[0]"),
        (
            [{"split": "train", "filename": "1.jpg", "sentences": {"raw": "a"}}],
            "'sentences' is not a list",
            "images[0]",
        ),
        (
            [{"split": "train", "filename": "1.jpg", "sentences": ["a"]}],
            "not a JSON object",
            "images[0]",
        ),
        (
            [{"split": "train", "filename": "1.jpg", "sentences": [{"raw": None}]}],
            "'raw' is not text",
            "images[0]",
        ),
        ([entry(1, "train", "a", folder="../..")], "a path leaves the image folder", "images[0]"),
        ([entry(1, "train", "a", name="a\0.jpg")], "a NUL character in 'filename'", "images[0]"),
        ([], "no 'images'", "dataset.json"),
    ],
)
def test_files_that_are_refused(tmp_path, images, what, where):
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"images": images, "dataset": "coco"}))
    with pytest.raises(SourceError) as caught:
        open_source(f"karpathy:{path}")
    assert what in str(caught.value)
    assert where in str(caught.value)


@pytest.mark.shared
def test_the_real_pictures_of_flickr8k(tmp_path, shared_data):
    """The published captions and pictures, in the published layout, equal the table of the same."""
    folder = shared_data / "flickr8k-1k"
    images: dict[str, dict] = {}
    with (folder / "captions.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found = images.setdefault(row["image"], entry(len(images), row["split"], name=row["image"]))
            found["sentences"].append({"raw": row["caption"], "tokens": row["caption"].split()})
    (tmp_path / "dataset_flickr8k.json").write_text(json.dumps({"images": list(images.values())}))
    source = open_source(str(tmp_path / "dataset_flickr8k.json"), image_root=folder / "images")
    table = open_source(str(folder / "captions.csv"))
    assert len(source) == len(table) == 1000
    for i in range(len(table)):
        ours, theirs = source[i], table[i]
        assert (ours.id, ours.split, ours.captions) == (theirs.id, theirs.split, theirs.captions)
        assert ours.picture.nbytes == theirs.picture.nbytes
