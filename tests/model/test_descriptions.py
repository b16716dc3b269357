from __future__ import annotations

import pytest

from embedstore.errors import UsageError
from embedstore.model.classes import ClassName, parse_classes
from embedstore.model.descriptions import described, read_descriptions


def test_a_file_is_class_to_sentences_each_class_its_own_number(tmp_path) -> None:
    file = tmp_path / "cupl.json"
    file.write_text('\ufeff{"tench": ["A tench is a fish.", " It is green. "], "Käse": "yellow"}', "utf-8")
    assert read_descriptions(file) == {"tench": ("A tench is a fish.", "It is green."), "Käse": ("yellow",)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "as JSON"),
        ("[]", "not descriptions"),
        ("{}", "not descriptions"),
        ('{"a": []}', "one or more sentences"),
        ('{"a": [1]}', "one or more sentences"),
        ('{"a": [" "]}', "one or more sentences"),
        ('{"a": {"b": "c"}}', "one or more sentences"),
        ('{"a": ["x"], "a": ["y"]}', r"stands twice[\s\S]*'a'"),
        ("[" * 100_000, "as JSON"),
    ],
)
def test_what_is_none_is_refused_with_the_file(tmp_path, text, words) -> None:
    file = tmp_path / "bad.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=words) as error:
        read_descriptions(file)
    assert "bad.json" in str(error.value)


def test_a_class_is_found_by_label_then_words_then_loosely() -> None:
    classes = parse_classes(["n1\tgrey fox", "Hot dog", "n3\tcrane", "n4\tcrane", "none"])
    found, unused = described(
        classes,
        {"grey fox": ["{} runs"], "hot_dog": ["a sausage"], "n3": ["a bird"], "crane": ["tall"], "x": ["y"]},
    )
    assert found == (("grey fox runs",), ("a sausage",), ("a bird",), ("tall",), ())
    assert unused == ("x",)


def test_names_that_differ_in_case_only_are_not_guessed_between() -> None:
    found, unused = described(
        (ClassName(label="polish", words="polish"),), {"Polish": ["a language"], "POLISH": ["of a shoe"]}
    )
    assert found == ((),)
    assert unused == ("Polish", "POLISH")
