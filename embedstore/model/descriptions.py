"""Sentences that describe each class, as language models write them (CuPL, VDT): class -> its own prompts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from embedstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from embedstore.model.classes import ClassName

Descriptions: TypeAlias = Mapping[str, "Sequence[str]"]

_SHAPE = '{"CLASS": ["SENTENCE", ...], ...}'


def read_json(path: str | PathLike[str]) -> object:
    """What a UTF-8 JSON file holds; `UsageError` where it cannot be read, or a name stands twice in it."""

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        if twice:
            raise UsageError("a name stands twice", where=path, found=", ".join(map(repr, twice[:10])))
        return dict(pairs)

    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=once)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as bad:
        raise UsageError("cannot read the file as JSON", where=path, found=bad) from None


def read_descriptions(path: str | PathLike[str]) -> dict[str, tuple[str, ...]]:
    """Class -> sentences, of a JSON object of lists; a single sentence may stand without its list.

    `UsageError` for another shape, and for a class without a sentence.
    """
    return check_descriptions(read_json(path), where=path)


def check_descriptions(found: object, *, where: object = None) -> dict[str, tuple[str, ...]]:
    """The same of a value that is read already."""
    if not isinstance(found, Mapping) or not found:
        raise UsageError("not descriptions of classes", where=where, allowed=_SHAPE)
    kept = {}
    for name, value in found.items():
        sentences = (value,) if isinstance(value, str) else value
        if (
            not isinstance(name, str)
            or not isinstance(sentences, list | tuple)
            or not sentences
            or not all(isinstance(text, str) and text.strip() for text in sentences)
        ):
            raise UsageError(
                "a class needs one or more sentences",
                where=where,
                found=f"{name!r}: {str(value)[:60]!r}",
                allowed=_SHAPE,
            )
        kept[name] = tuple(text.strip() for text in sentences)
    return kept


def described(
    classes: Sequence[ClassName], descriptions: Descriptions
) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """The sentences of each class, none where there are none, and the names in `descriptions` of no class.

    A class is looked up by its label, then by its words, then by either without regard to case and with `_`
    as a blank. `{}` in a sentence becomes the words of the class.
    """
    folded = Counter(_folded(name) for name in descriptions)
    loose = {_folded(name): name for name in descriptions if folded[_folded(name)] == 1}
    used, found = set(), []
    for own in classes:
        names = (own.label, own.words, loose.get(_folded(own.label)), loose.get(_folded(own.words)))
        name = next((name for name in names if name is not None and name in descriptions), None)
        used.add(name)
        sentences = descriptions[name] if name is not None else ()
        found.append(tuple(sentence.replace("{}", own.words) for sentence in sentences))
    return tuple(found), tuple(name for name in descriptions if name not in used)


def _folded(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()
