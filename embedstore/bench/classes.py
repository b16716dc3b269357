"""What a zero-shot task asks: which classes there are, and the prompts of each."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedstore.errors import UsageError
from embedstore.model.classes import (
    DEFAULT_TEMPLATES,
    ClassName,
    check_templates,
    parse_classes,
    prompts_of,
    read_lines,
)
from embedstore.model.descriptions import check_descriptions, described, read_descriptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedstore.model.descriptions import Descriptions
    from embedstore.store import Store

__all__ = [
    "DEFAULT_TEMPLATES",
    "IMAGENET",
    "ClassName",
    "ClassPrompts",
    "check_templates",
    "class_prompts",
    "parse_classes",
    "prompts_of",
    "read_descriptions",
    "read_lines",
    "store_labels",
]

IMAGENET = "imagenet"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassPrompts:
    """Classes, and the prompts of each, which may differ in number.

    prompts: c tuples, none of them empty; templates as they were given, or none; options: what a report tells
    of these; notes: what its reader must know.
    """

    classes: tuple[ClassName, ...]
    prompts: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...]
    options: dict[str, str | int | float | bool]
    notes: tuple[str, ...]


def class_prompts(
    store: Store,
    *,
    classes: Sequence[str] | Sequence[ClassName] | None = None,
    templates: Sequence[str] | None = None,
    descriptions: Descriptions | None = None,
) -> ClassPrompts:
    """Classes and prompts, of what a task was given.

    classes: themselves, or lines as `parse_classes` reads them, or `"imagenet"`: open_clip's names for labels
    as `imagenet_classes` knows them; without it every label of the store, sorted. templates: lines with `{}`,
    or `"imagenet"`; without it `DEFAULT_TEMPLATES`, or where there are descriptions none. descriptions: class
    -> sentences, which are prompts beside those of the templates. `UsageError` for what cannot be meant, and
    for classes that have neither a template nor a sentence.
    """
    options: dict[str, str | int | float | bool] = {}
    named = _classes(store, classes, options)
    forms = _templates(templates, described=descriptions is not None, options=options)
    prompts = tuple(tuple(prompts_of([own], forms)) for own in named)
    notes: tuple[str, ...] = ()
    if descriptions is not None:
        sentences, unused = described(named, check_descriptions(descriptions))
        prompts = tuple(own + more for own, more in zip(prompts, sentences, strict=True))
        options["descriptions_sha256"] = sha256_of(
            {name: list(texts) for name, texts in descriptions.items()}
        )
        if unused:
            count = f"{len(unused)} of {len(descriptions)}"
            notes = (f"{count} described classes are not among the classes: {_some(unused)}",)
    _refuse_silent(named, prompts)
    if classes is not None or any(own.words != own.label for own in named):
        options["words_sha256"] = sha256_of([[own.label, own.words] for own in named])
    options["prompts"] = sum(map(len, prompts))
    return ClassPrompts(classes=named, prompts=prompts, templates=forms, options=options, notes=notes)


def store_labels(store: Store) -> list[str]:
    """Every label of the store, all splits, sorted; `UsageError` where there is none."""
    labels = sorted({label for label in store.images(["label"])["label"].to_pylist() if label is not None})
    if not labels:
        raise UsageError("no image of the store has a label", todo="there is nothing to measure zero-shot")
    return labels


def _classes(
    store: Store,
    classes: Sequence[str] | Sequence[ClassName] | None,
    options: dict[str, str | int | float | bool],
) -> tuple[ClassName, ...]:
    if not isinstance(classes, str):
        if classes is None:
            # As they are, not read as lines of a file: a label may begin with a blank or hold a tab.
            return tuple(ClassName(label=label, words=_words(label)) for label in store_labels(store))
        named = tuple(own for own in classes if isinstance(own, ClassName))
        return named or parse_classes([own for own in classes if isinstance(own, str)])
    _refuse_unless_imagenet(classes, "classes")
    from embedstore.model.imagenet import imagenet_classes

    named, way = imagenet_classes(frozenset(store_labels(store)))
    options |= {"classes": IMAGENET, "labels": way}
    return named


def _words(label: str) -> str:
    return " ".join(label.split()) or label


def _templates(
    templates: Sequence[str] | None, *, described: bool, options: dict[str, str | int | float | bool]
) -> tuple[str, ...]:
    if templates is None:
        return () if described else DEFAULT_TEMPLATES
    if not isinstance(templates, str):
        return check_templates(templates)
    _refuse_unless_imagenet(templates, "templates")
    from embedstore.model.imagenet import imagenet_templates

    options["templates"] = IMAGENET
    return imagenet_templates()


def _refuse_unless_imagenet(word: str, what: str) -> None:
    if word != IMAGENET:
        raise UsageError(f"not a list of {what}", found=repr(word), allowed=f"lines, or {IMAGENET!r}")


def _refuse_silent(named: Sequence[ClassName], prompts: Sequence[Sequence[str]]) -> None:
    silent = [name.label for name, own in zip(named, prompts, strict=True) if not own]
    if silent:
        raise UsageError(
            "classes without a description",
            found=f"{len(silent)} of {len(named)}: {_some(silent)}",
            todo="describe them, or give templates too",
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "")


def sha256_of(value: object) -> str:
    """Of a value as JSON, so that reports tell long lists apart."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
