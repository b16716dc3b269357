from __future__ import annotations

import pytest

from embedstore.encoders import named_features, split_spec
from embedstore.errors import UsageError


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        ("hf:x?layer=-2", {"layers": (-2,)}),
        ("hf:x?layers=12", {"layers": (12,)}),
        ("hf:x?layers=12,24&dtype=bfloat16", {"layers": (12, 24), "dtype": "bfloat16"}),
        ("hf:x?image_size=224", {"image_size": 224}),
        ("hf:x?image_size=224x448", {"image_size": (224, 448)}),
        ("hf:x?max_length=64", {"max_length": 64}),
        ("hf:x?max_length=32,64", {"max_length": (32, 64)}),
    ],
)
def test_whole_numbers_and_lists_of_them(spec, options):
    assert split_spec(spec).options == options


@pytest.mark.parametrize(
    "spec",
    [
        "hf:a/b",
        "hf:x?layer=-2",
        "hf:x?layers=12,24&revision=v1",
        "hf:x?image_size=14x28",
        "st:x?max_length=1,2",
    ],
)
def test_a_spec_is_written_as_it_was_read(spec):
    assert str(split_spec(spec)) == spec


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("hf:x?layer=2,3", "layer must be a whole number\n"),
        ("hf:x?image_size=2,3", "image_size must be a whole number"),
        ("hf:x?layers=2,", "whole number, or several with commas"),
        ("hf:x?max_length=-3", "max_length must be a whole number"),
        ("hf:x?layers=2,2", "lists a value twice"),
        ("hf:x?layer=2&layers=3", "given twice"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(spec, words):
    with pytest.raises(UsageError, match=words):
        split_spec(spec)


@pytest.mark.parametrize(
    ("text", "features"),
    [
        ("hf:a/vit", [("vit", "hf:a/vit")]),
        ("v=hf:a/vit?layer=3", [("v", "hf:a/vit?layer=3")]),
        (
            "hf:a/vit?layers=3,-1&dtype=float16",
            [("vit-L3", "hf:a/vit?layer=3&dtype=float16"), ("vit-L-1", "hf:a/vit?layer=-1&dtype=float16")],
        ),
        ("v=hf:a/vit?layers=3,6", [("v-L3", "hf:a/vit?layer=3"), ("v-L6", "hf:a/vit?layer=6")]),
        ("low,high=hf:a/vit?layers=3,6", [("low", "hf:a/vit?layer=3"), ("high", "hf:a/vit?layer=6")]),
        (
            "w=hf:bert?layers=3,6&max_length=8,16",
            [
                ("w-max8-L3", "hf:bert?layer=3&max_length=8"),
                ("w-max8-L6", "hf:bert?layer=6&max_length=8"),
                ("w-max16-L3", "hf:bert?layer=3&max_length=16"),
                ("w-max16-L6", "hf:bert?layer=6&max_length=16"),
            ],
        ),
    ],
)
def test_a_spec_names_its_features_and_what_gives_each_alone(text, features):
    assert named_features(text) == features


@pytest.mark.parametrize("text", ["a,b=hf:x", "a,b,c=hf:x?layers=1,2", "a,=hf:x?layers=1,2"])
def test_names_that_do_not_fit_the_features_are_refused(text):
    with pytest.raises(UsageError, match="one name, or one for each of its features"):
        named_features(text)
