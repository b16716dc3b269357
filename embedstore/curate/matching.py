"""Which of many entries stand in a text, as whole words: the Aho-Corasick automaton over tokens.

Texts and entries become tokens in the same way: a run of letters, digits and marks is one, every other
character that is no space is one by itself, and so is each character of a script that is written without
spaces. An entry is in a text where its tokens stand in a row. Case does not count unless it is asked for.
"""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from os import PathLike

    from embedstore.shapes import IntArray

# Thai, Lao, Myanmar, Khmer, kana, Han and its extensions: words are not set apart by spaces there.
_UNSPACED = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3040, 0x30FF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


class _Spacing(dict[int, str]):
    """What `str.translate` puts for each character, found when it is first met."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kind = unicodedata.category(character)[0]
        if character.isspace() or kind in "CZ":
            found = " "
        elif kind == "M" or (character.isalnum() and not any(a <= code <= b for a, b in _UNSPACED)):
            found = character
        else:
            found = f" {character} "
        self[code] = found
        return found


_SPACING = _Spacing()


def tokens(text: str, *, case: bool = False) -> str:
    """The tokens of a text with one space between them and at both ends; of nothing an empty string."""
    same = text if case else unicodedata.normalize("NFC", text.casefold())
    found = " ".join(same.translate(_SPACING).split())
    return f" {found} " if found else ""


class Matcher:
    """Finds which entries stand in a text. `entries` are kept as given; of equal ones only the first counts.

    `MissingExtraError` without the extra `curate`, `UsageError` where no entry is left.
    """

    def __init__(self, entries: Iterable[str], *, case: bool = False) -> None:
        try:
            import ahocorasick
        except ModuleNotFoundError:
            raise MissingExtraError(
                "matching entries needs the package pyahocorasick, which is not installed",
                todo="pip install 'embedstore[curate]'",
            ) from None
        given = list(entries)
        first: dict[str, str] = {}
        for entry in given:
            key = tokens(entry, case=case)
            if key:
                first.setdefault(key, entry.strip())
        if not first:
            raise UsageError("there is no entry to match", found=f"{len(given)} empty ones")
        self.keys, self.entries, self.case = tuple(first), tuple(first.values()), case
        self.left_out = len(given) - len(first)
        self._automaton: Any = ahocorasick.Automaton()
        for number, key in enumerate(first):
            self._automaton.add_word(key, number)
        self._automaton.make_automaton()

    def __len__(self) -> int:
        return len(self.entries)

    def match(self, texts: Sequence[str]) -> tuple[IntArray, IntArray]:
        """Which text `(k,)` has which entry `(k,)`, each pair once, ascending by text and entry."""
        places, found = [], []
        for place, text in enumerate(texts):
            mine = sorted({number for _, number in self._automaton.iter(tokens(text, case=self.case))})
            places += [place] * len(mine)
            found += mine
        return np.array(places, np.int64), np.array(found, np.int64)


def read_entries(file: str | PathLike[str]) -> list[str]:
    """Entries from a file: one a line, or of `.json` a list of strings; `UsageError` otherwise."""
    path = Path(file)
    try:
        content = path.read_text(encoding="utf-8-sig")
        found = json.loads(content) if path.suffix.lower() == ".json" else content.splitlines()
    except (OSError, ValueError) as bad:
        raise UsageError("entries cannot be read", where=path, found=str(bad)[:200]) from None
    if not isinstance(found, list) or not all(isinstance(entry, str) for entry in found):
        raise UsageError("not a list of entries", where=path, allowed="lines, or a JSON list of strings")
    entries = [entry.strip() for entry in found if entry.strip()]
    if not entries:
        raise UsageError("there is no entry in the file", where=path)
    return entries
