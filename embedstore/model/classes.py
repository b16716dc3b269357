"""Class lists and prompt templates: plain lines of text, never evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DEFAULT_TEMPLATES = ("a photo of a {}.",)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassName:
    """A class: the label that the store's table says, and the words that stand in its prompts."""

    label: str
    words: str


def read_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 file without line ends and blank lines; `UsageError` where it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as bad:
        raise UsageError("cannot read the file as UTF-8 text", where=path, found=bad) from None
    return [line for line in text.splitlines() if line.strip()]


def parse_classes(lines: Sequence[str]) -> tuple[ClassName, ...]:
    """One class a line: `name`, or `label<TAB>words for the prompts`. A label may stand once only."""
    classes = []
    for line in lines:
        label, _, words = (part.strip() for part in line.partition("\t"))
        if label:
            classes.append(ClassName(label=label, words=words or label))
    labels = [c.label for c in classes]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice or not classes:
        raise UsageError(
            "a class list needs at least one class, each once",
            found=f"twice: {', '.join(twice[:10])}" if twice else "none",
            allowed="one a line: name, or label<TAB>words",
        )
    return tuple(classes)


def check_templates(templates: Sequence[str]) -> tuple[str, ...]:
    """Templates as they are; `UsageError` for none, or for one without `{}` where the class goes."""
    bad = [t for t in templates if "{}" not in t]
    if bad or not templates:
        raise UsageError(
            "a template needs {} where the class name goes",
            found=repr(bad[0]) if bad else "no template",
            allowed="for example: a photo of a {}.",
        )
    return tuple(templates)


def prompts_of(classes: Sequence[ClassName], templates: Sequence[str]) -> list[str]:
    """All prompts, the templates of one class together."""
    return [template.replace("{}", c.words) for c in classes for template in templates]
