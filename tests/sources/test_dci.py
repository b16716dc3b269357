"""Densely Captioned Images, written by hand in the published layout."""

from __future__ import annotations

import base64
import json

import pytest

from embedstore.errors import SourceError, UsageError
from embedstore.sources import open_source
from embedstore.sources.dci import NO_SUMMARY
from embedstore.testing.sources import SourceContract


def mask(index, quality=0, label="a label", caption="a longer text", parent=-1):
    found = {
        "idx": index,
        "outer_mask": base64.b64encode(b"PNG").decode(),
        "mask_quality": quality,
        "label": label,
        "caption": caption,
        "parent": parent,
        "requirements": [],
        "bounds": {"topLeft": {"x": 0, "y": 0}, "bottomRight": {"x": 3, "y": 3}},
        "area": 9,
    }
    if quality == 2:
        del found["label"], found["caption"]
    return found


def described(name, **more):
    return {
        "image": name,
        "short_caption": "A street in a town.",
        "extra_caption": "It is early; the shops are closed. ",
        "mask_data": {
            "0": mask(0, label="A car", caption="Red, with two doors."),
            "1": mask(1, quality=1, label="A wall", parent=0),
            "2": mask(2, quality=2),
            "3": mask(3, label="A dog", caption="It sleeps."),
        },
        "mask_keys": ["0", "1", "2", "3"],
        **more,
    }


SUMMARIES = {
    "summaries": {"base": ["A car on a street.", "A dog near a car."], "0": "A red car."},
    "negatives": {
        "base": {"swaps": ["A street on a car."], "layout": ["A car below a street."], "basic": []},
        "0": {"swaps": ["A blue car."], "layout": [], "basic": []},
    },
}
NAMES = ["sa_1.jpg", "sa_2.jpg", "sa_3.jpg"]


@pytest.fixture
def dci(tmp_path, draw):
    root = tmp_path / "densely_captioned_images"
    for folder, more in (("annotations", {}), ("complete", SUMMARIES)):
        (root / folder).mkdir(parents=True)
        for k, name in enumerate(NAMES):
            item = described(name, **(more if k < 2 else {}))
            (root / folder / f"{name[:-4]}.json").write_text(json.dumps(item))
    splits = {"train": ["sa_1.json"], "valid": [], "test": ["sa_2.json", "sa_3.json"]}
    (root / "splits.json").write_text(json.dumps(splits))
    draw(root / "photos", *NAMES)
    return root


class TestContract(SourceContract):
    @pytest.fixture
    def source(self, dci):
        return open_source(f"dci:{dci}")


class TestContractOfSummaries(SourceContract):
    @pytest.fixture
    def source(self, dci):
        return open_source(f"dci:{dci}?captions=summaries&splits=test")


def test_one_long_text_and_one_short_one(dci):
    source = open_source(f"dci:{dci}")
    assert [(source[i].id, source[i].split) for i in range(3)] == [
        ("sa_1.jpg", "train"),
        ("sa_2.jpg", "test"),
        ("sa_3.jpg", "test"),
    ]
    long, short = source[0].captions
    assert (long.role, short.role, short.text) == ("long", "caption", "A street in a town.")
    assert long.text.split("\n") == [
        "A street in a town.",
        "It is early; the shops are closed.",
        "A car: Red, with two doors.",
        "A wall",
        "A dog: It sleeps.",
    ]
    assert source[1].picture.open().size == (6, 4)
    assert source.identity == {"kind": "dci", "long": "full", "captions": "short", "language": "en"}


def test_the_long_text_without_its_masks(dci):
    source = open_source(f"dci:{dci}?long=extended&splits=train")
    assert len(source) == 1
    assert source[0].captions[0].text == "A street in a town.\nIt is early; the shops are closed."
    assert source.identity["splits"] == "train"


def test_summaries_and_their_negatives(dci):
    source = open_source(f"dci:{dci}?captions=summaries")
    assert [(c.text, c.role, c.category) for c in source[0].captions[1:]] == [
        ("A car on a street.", "caption", None),
        ("A street on a car.", "negative", "swaps"),
        ("A car below a street.", "negative", "layout"),
        ("A dog near a car.", "caption", None),
    ]
    assert [c.role for c in source[2].captions] == ["long"]
    assert source.dropped[NO_SUMMARY] == 1


def test_without_splits_and_without_a_short_caption(dci):
    (dci / "splits.json").unlink()
    (dci / "complete" / "sa_1.json").unlink()
    path = dci / "annotations" / "sa_1.json"
    path.write_text(json.dumps(described("sa_1.jpg", short_caption="")))
    source = open_source(f"dci:{dci}")
    assert source[0].split is None
    assert [c.role for c in source[0].captions] == ["long"]
    assert source[0].captions[0].text.startswith("It is early")
    assert source.dropped["empty captions"] == 1


@pytest.mark.parametrize(
    ("change", "what", "where"),
    [
        ({"image": None}, "'image' is not text", "sa_1.json"),
        ({"image": "sa_2.jpg"}, "one picture is described twice", "sa_1.json and sa_2.json"),
        ({"image": "../sa_1.jpg"}, "a path leaves the image folder", "sa_1.json"),
        ({"extra_caption": 3}, "'extra_caption' is not text", "sa_1.json"),
        ({"mask_data": []}, "not a JSON object", "mask_data"),
        ({"mask_data": {"0": mask(0, quality=5)}}, "'mask_quality' is not 0, 1 or 2", "mask 0"),
        ({"mask_data": {"0": mask(0, label=None)}}, "'label' is not text", "mask 0"),
        ({"mask_data": {"0": mask(0, caption="a\0")}}, "a NUL character", "mask 0"),
    ],
)
def test_annotations_that_are_refused(dci, change, what, where):
    (dci / "annotations" / "sa_1.json").write_text(json.dumps(described("sa_1.jpg") | change))
    with pytest.raises(SourceError) as caught:
        open_source(f"dci:{dci}")
    assert what in str(caught.value)
    assert where in str(caught.value)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"summaries": {"base": 7}}, "not a text, nor a list of texts"),
        ({"negatives": {"base": ["a"]}}, "not a JSON object"),
        ({"negatives": {"base": {"swaps": [1]}}}, "not a text, nor a list of texts"),
    ],
)
def test_summaries_that_are_refused(dci, change, what):
    (dci / "complete" / "sa_1.json").write_text(json.dumps(described("sa_1.jpg") | SUMMARIES | change))
    with pytest.raises(SourceError, match=what) as caught:
        open_source(f"dci:{dci}?captions=summaries")
    assert "sa_1.json" in str(caught.value)


@pytest.mark.parametrize(
    ("splits", "what"),
    [
        ({"train": ["sa_1.json"], "test": ["sa_1.json"]}, "a picture in two splits"),
        ({"train": "sa_1.json"}, "'train' is not a list"),
        ({"train": [1]}, "the name of an annotation is not text"),
        ({"a\0": ["sa_1.json"]}, "a NUL character"),
        ({"\ud800": ["sa_1.json"]}, "a lone surrogate"),
        ([], "not a JSON object"),
    ],
)
def test_splits_that_are_refused(dci, splits, what):
    (dci / "splits.json").write_text(json.dumps(splits))
    with pytest.raises(SourceError, match=what) as caught:
        open_source(f"dci:{dci}")
    assert "splits.json" in str(caught.value)


def test_what_is_not_there(dci, tmp_path):
    with pytest.raises(SourceError, match="no json files of Densely Captioned Images"):
        open_source(f"dci:{tmp_path}")
    with pytest.raises(SourceError, match="no split 'val'"):
        open_source(f"dci:{dci}?splits=val")
    with pytest.raises(UsageError, match="bad value of option 'long'"):
        open_source(f"dci:{dci}?long=all")
    with pytest.raises(UsageError, match="option 'language' has no meaning"):
        open_source(f"dci:{dci}", language="de")
    (dci / "annotations" / "sa_1.json").write_text('{"image": "sa')
    with pytest.raises(SourceError, match="not valid JSON"):
        open_source(f"dci:{dci}")
