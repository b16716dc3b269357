"""What the members of a sample in a tar mean: by their endings, and by the keys of their JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedstore.errors import UsageError
from embedstore.sources.folder import EXTENSIONS
from embedstore.sources.reading.rows import refuse_unknown_columns
from embedstore.sources.samples.gathering import clean
from embedstore.sources.samples.grouping import check_language

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping

FIELDS: Mapping[str, tuple[str, ...]] = {
    "image": tuple(ending[1:] for ending in EXTENSIONS),
    "caption": ("txt", "text", "caption", "json:caption"),
    "captions": ("json:captions",),
    "label": ("cls", "json:label"),
    "split": ("json:split",),
    "language": ("json:language",),
    "id": (),
}
"""Our column -> endings of members, or `ENDING:KEY` of their JSON: the first that is there is taken."""


@dataclass(frozen=True)
class Wanted:
    """Which members are read: our column -> endings and JSON keys, in the order of preference."""

    fields: Mapping[str, tuple[str, ...]]
    language: str
    split: str | None
    pictures: Mapping[str, int]
    texts: frozenset[str]

    @classmethod
    def of(cls, columns: Mapping[str, str], language: str, split: str | None) -> Wanted:
        """From `columns`, our names to theirs. Raises `UnknownNameError`, `UsageError`."""
        refuse_unknown_columns(columns, FIELDS)
        if ":" in columns.get("image", ""):
            raise UsageError(
                "a picture is no JSON value", where="--column", found=f"image={columns['image']}"
            )
        chosen = {ours: _named(columns[ours]) if ours in columns else FIELDS[ours] for ours in FIELDS}
        if columns.get("caption") and "captions" not in columns:
            chosen["captions"] = ()
        if columns.get("captions") and "caption" not in columns:
            chosen["caption"] = ()
        texts = {
            place.partition(":")[0] for ours, places in chosen.items() if ours != "image" for place in places
        }
        return cls(
            fields=chosen,
            language=language,
            split=split,
            pictures={ending: rank for rank, ending in enumerate(chosen["image"])},
            texts=frozenset(texts),
        )


def _named(theirs: str) -> tuple[str, ...]:
    # Endings are compared in lower case, keys of JSON as they are.
    pieces = (piece.strip().partition(":") for piece in theirs.split(";") if piece.strip())
    return tuple(f"{ending.lower().lstrip('.')}{colon}{key}" for ending, colon, key in pieces)


class Values:
    """The values of one sample by our names; JSON is read once."""

    def __init__(self, texts: Mapping[str, bytes], wanted: Wanted, dropped: Counter[str]) -> None:
        self._texts, self._wanted, self._dropped = texts, wanted, dropped
        self._objects: dict[str, Any] = {}

    def _raw(self, name: str) -> object:
        for place in self._wanted.fields[name]:
            ending, colon, key = place.partition(":")
            if ending not in self._texts:
                continue
            value = self._object(ending).get(key) if colon else self._texts[ending]
            if value is not None:
                return value
        return None

    def _object(self, ending: str) -> dict[str, Any]:
        if ending not in self._objects:
            try:
                found = json.loads(self._texts[ending])
            except (ValueError, RecursionError):
                found = None
            if not isinstance(found, dict):
                self._dropped["json that cannot be read, or is no object"] += 1
                found = {}
            self._objects[ending] = found
        return self._objects[ending]  # type: ignore[no-any-return]  # an object, as tested

    def captions(self) -> list[str]:
        """The captions, in their order."""
        several = self._raw("captions")
        if several is not None and not isinstance(several, list):
            self._dropped["captions that are no list"] += 1
            several = None
        raw = several if several is not None else [self._raw("caption")]
        return [text for one in raw if (text := clean(one, self._dropped)) is not None]

    def first(self, name: str) -> str | None:
        """A label, split or id."""
        return clean(self._raw(name), self._dropped, f"{name}s")

    def language(self) -> str:
        """The language of the captions."""
        said = clean(self._raw("language"), self._dropped, "languages")
        if said is None:
            return self._wanted.language
        try:
            return check_language(said)
        except UsageError:
            self._dropped["languages that are no tag, e.g. en"] += 1
            return self._wanted.language
