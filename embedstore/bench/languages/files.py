"""Class names and templates of several languages, and which languages a task measures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

from embedstore.errors import UsageError
from embedstore.model.classes import ClassName, check_templates
from embedstore.model.descriptions import read_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from embedstore.store import Store

# language -> label -> words, or language -> words in the order of the plan's classes
LanguageClasses: TypeAlias = Mapping[str, "Mapping[str, str] | Sequence[str]"]
LanguageTemplates: TypeAlias = Mapping[str, "Sequence[str]"]

_CLASSES = '{"de": {"LABEL": "WORDS", ...}, "fr": ["WORDS of the first class", ...]}'
_TEMPLATES = '{"de": ["ein Foto von {}.", ...], ...}'
# The words alone: a template of one language is none of another.
BARE = ("{}",)


def read_language_classes(path: str | PathLike[str]) -> LanguageClasses:
    """Language -> label -> words (or a list of words) of a JSON file; `UsageError` for another shape."""
    found = read_json(path)
    if not isinstance(found, dict) or not found:
        raise UsageError("not class names by language", where=path, allowed=_CLASSES)
    for language, names in found.items():
        words = list(names.values()) if isinstance(names, dict) else names
        if (
            not isinstance(words, list)
            or not words
            or not all(isinstance(w, str) and w.strip() for w in words)
        ):
            raise UsageError(
                "a language needs a name for each class", where=path, found=repr(language), allowed=_CLASSES
            )
    return found


def read_language_templates(path: str | PathLike[str]) -> LanguageTemplates:
    """Language -> templates of a JSON file; `UsageError` for another shape."""
    found = read_json(path)
    if not isinstance(found, dict) or not found:
        raise UsageError("not templates by language", where=path, allowed=_TEMPLATES)
    for language, lines in found.items():
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise UsageError(
                "a language needs templates", where=path, found=repr(language), allowed=_TEMPLATES
            )
    return found


def class_names(store: Store, classes: LanguageClasses) -> dict[str, tuple[ClassName, ...]]:
    """Language -> classes, the same labels in each language and in one order.

    `UsageError` where a list has not one name for each class of the plan, or two languages differ in labels.
    """
    plan = store.plan.classes
    found: dict[str, Mapping[str, str]] = {}
    for language, words in classes.items():
        if not isinstance(words, Mapping) and len(words) != len(plan):
            raise UsageError(
                "a list of class names needs one for each class of the store, in their order",
                where=language,
                found=len(words),
                allowed=len(plan),
            )
        found[language] = words if isinstance(words, Mapping) else dict(zip(plan, words, strict=True))
    first = next(iter(found))
    for language, names in found.items():
        other = sorted(names.keys() ^ found[first].keys())
        if other:
            raise UsageError(
                "languages must name the same classes",
                where=f"{first} and {language}",
                found=f"only in one: {', '.join(other[:10])}",
            )
    return {
        language: tuple(ClassName(label=label, words=names[label].strip()) for label in found[first])
        for language, names in found.items()
    }


def templates_of(templates: LanguageTemplates | None, languages: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Language -> templates; without any the words alone. `UsageError` for a language without its own."""
    if templates is None:
        return dict.fromkeys(languages, BARE)
    missing = [language for language in languages if language not in templates]
    if missing:
        raise UsageError(
            "no templates in a language",
            found=", ".join(missing),
            allowed=", ".join(templates),
            todo='add them; "{}" is the name alone',
        )
    return {language: check_templates(templates[language]) for language in languages}


def chosen_languages(
    wanted: Sequence[str] | None, *, of_texts: Sequence[str], of_classes: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Languages to retrieve in and to classify in, of those of texts and of class names.

    `wanted` narrows both, in its order; none: all. `UsageError` for one that is in neither, and where all are
    one: its figures are those of the other tasks.
    """
    known = dict.fromkeys([*of_texts, *of_classes])
    if wanted is None and len(known) < 2:
        raise UsageError(
            "texts of one language, and no class names of others",
            found=", ".join(known) or "no texts of this role",
            todo="name it with --languages, or give class names with --classes",
        )
    unknown = [language for language in wanted or () if language not in known]
    if unknown:
        raise UsageError(
            "no texts and no class names in a language",
            where="--languages",
            found=", ".join(unknown),
            allowed=", ".join(known),
        )
    chosen = known if wanted is None else dict.fromkeys(wanted)
    return (
        tuple(language for language in chosen if language in of_texts),
        tuple(language for language in chosen if language in of_classes),
    )
