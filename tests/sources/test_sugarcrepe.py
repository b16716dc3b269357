"""SugarCrepe files, written by hand in the published layout."""

from __future__ import annotations

import json

import pytest

from embedstore.errors import SourceError
from embedstore.sources import open_source
from embedstore.testing.sources import SourceContract

TABLE, TRAIN, EMPTY = "000000085329.jpg", "000000297147.jpg", "000000001000.jpg"
ADD = {
    "0": {
        "filename": TABLE,
        "caption": "A bed with a pillow.",
        "negative_caption": "A bed with a red pillow.",
    },
    "1": {"filename": TRAIN, "caption": "A train on rails. ", "negative_caption": "A wet train on rails."},
    "2": {"filename": TABLE, "caption": "A room at night.", "negative_caption": "A blue room at night."},
}
SWAP = {
    "0": {
        "filename": TABLE,
        "caption": "A bed with a pillow.",
        "negative_caption": "A pillow with a bed.",
    },
    "7": {"filename": TRAIN, "caption": "A train on rails.", "negative_caption": "Rails on a train."},
    "8": {"filename": TRAIN, "caption": "A train on rails.", "negative_caption": "Rails on a train."},
}


@pytest.fixture
def crepe(tmp_path, draw):
    data = tmp_path / "data"
    data.mkdir()
    (data / "add_att.json").write_text(json.dumps(ADD, indent=4))
    (data / "swap_obj.json").write_text(json.dumps(SWAP, indent=4))
    draw(tmp_path / "val2017", TABLE, TRAIN)
    return data


class TestContract(SourceContract):
    @pytest.fixture
    def source(self, crepe):
        return open_source(f"sugarcrepe:{crepe}")


def test_negatives_stand_behind_the_caption_that_they_alter(crepe):
    source = open_source(f"sugarcrepe:{crepe}")
    assert [source[i].id for i in range(len(source))] == [TABLE, TRAIN]
    assert [(c.text, c.role, c.category) for c in source[0].captions] == [
        ("A bed with a pillow.", "caption", None),
        ("A bed with a red pillow.", "negative", "add_att"),
        ("A pillow with a bed.", "negative", "swap_obj"),
        ("A room at night.", "caption", None),
        ("A blue room at night.", "negative", "add_att"),
    ]
    assert [(c.text, c.category) for c in source[1].captions] == [
        ("A train on rails.", None),
        ("A wet train on rails.", "add_att"),
        ("Rails on a train.", "swap_obj"),
        ("Rails on a train.", "swap_obj"),
    ]
    assert source[1].picture.open().size == (6, 4)
    assert source.identity == {"kind": "sugarcrepe", "language": "en"}


def test_items_are_as_many_as_in_the_files(crepe):
    source = open_source(f"sugarcrepe:{crepe}")
    negatives = [c.category for i in range(len(source)) for c in source[i].captions if c.role == "negative"]
    assert {name: negatives.count(name) for name in set(negatives)} == {"add_att": 3, "swap_obj": 3}


def test_one_file_is_detected_and_may_be_a_list_with_categories(crepe):
    assert len(open_source(str(crepe / "swap_obj.json"))) == 2
    (crepe / "one.json").write_text(json.dumps([{**ADD["0"], "category": "mine"}, ADD["1"]]))
    source = open_source(f"sugarcrepe:{crepe / 'one.json'}")
    assert [source[i].captions[1].category for i in range(2)] == ["mine", "one"]


@pytest.mark.parametrize(
    ("whole", "what", "where"),
    [
        ({"0": {"filename": TABLE, "caption": "a"}}, "no 'negative_caption'", "0"),
        ({"0": {**ADD["0"], "caption": 7}}, "'caption' is not text", "bad.json, 0"),
        ({"0": {**ADD["0"], "negative_caption": " "}}, "an empty text", "bad.json, 0"),
        ({"0": {**ADD["0"], "category": None}}, "'category' is not text", "bad.json, 0"),
        ({"0": {**ADD["0"], "filename": "../x.jpg"}}, "a path leaves the image folder", "bad.json, 0"),
        ({"0": {**ADD["0"], "caption": "a\0b"}}, "a NUL character", "bad.json, 0"),
        ({"0": "a text"}, "not a JSON object", "bad.json, 0"),
        ({"0": []}, "not a JSON object", "bad.json, 0"),
        ([ADD["0"], 3], "not a JSON object", "bad.json, [1]"),
        ({}, "no items in this file", "bad.json"),
        ({"0": {**ADD["0"], "filename": EMPTY}}, "not one of the pictures is there", "../val2017"),
    ],
)
def test_files_that_are_refused(crepe, whole, what, where):
    (crepe / "bad.json").write_text(json.dumps(whole))
    with pytest.raises(SourceError) as caught:
        open_source(f"sugarcrepe:{crepe / 'bad.json'}")
    assert what in str(caught.value)
    assert where in str(caught.value)


def test_a_folder_without_files(tmp_path):
    with pytest.raises(SourceError, match="no json files in this folder"):
        open_source(f"sugarcrepe:{tmp_path}")
