from __future__ import annotations

from types import SimpleNamespace

import pyarrow as pa
import pytest

from embedstore.bench.classes import (
    ClassName,
    check_templates,
    class_prompts,
    parse_classes,
    prompts_of,
    read_lines,
)
from embedstore.errors import UsageError


def test_a_line_is_a_name_or_a_label_with_its_words() -> None:
    assert parse_classes(["cat", "n02\tgrey fox", " dog "]) == (
        ClassName(label="cat", words="cat"),
        ClassName(label="n02", words="grey fox"),
        ClassName(label="dog", words="dog"),
    )


def test_prompts_of_one_class_stand_together_and_braces_in_names_are_plain_text() -> None:
    classes = parse_classes(["a {0.__class__} b", "cat"])
    assert prompts_of(classes, ["the {}", "{} and {}"]) == [
        "the a {0.__class__} b",
        "a {0.__class__} b and a {0.__class__} b",
        "the cat",
        "cat and cat",
    ]


def test_labels_of_a_store_are_classes_as_they_are_whatever_is_in_them() -> None:
    labels = pa.table({"label": ["cat ", None, "cat", "a\tb", "cat "]})
    asked = class_prompts(SimpleNamespace(images=lambda _: labels), templates=["the {}"])
    assert [own.label for own in asked.classes] == ["a\tb", "cat", "cat "]
    assert asked.prompts == (("the a b",), ("the cat",), ("the cat",))


def test_lists_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(UsageError, match="twice: cat"):
        parse_classes(["cat", "cat\tpussy cat"])
    with pytest.raises(UsageError, match="at least one class"):
        parse_classes([])
    with pytest.raises(UsageError, match=r"needs \{\}[\s\S]*'a photo'"):
        check_templates(["a {}", "a photo"])
    with pytest.raises(UsageError, match="no template"):
        check_templates([])


def test_files_are_utf_8_lines_without_blank_ones(tmp_path) -> None:
    file = tmp_path / "classes.txt"
    file.write_bytes("\ufeffKäse\r\n\n  \nn1\twide tab\n".encode())
    assert read_lines(file) == ["Käse", "n1\twide tab"]
    file.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(UsageError, match=r"classes\.txt: cannot read"):
        read_lines(file)
    with pytest.raises(UsageError, match=r"none\.txt"):
        read_lines(tmp_path / "none.txt")
