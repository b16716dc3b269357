"""Many files by one word: brace ranges, globs and lists, in the order that the word says.

`{000..123}` counts (with `..STEP` by steps, digits padded as written, letters too), `{a,b}` lists; braces may
stand in each other and several in one word. `*`, `?` and `[…]` match within one folder, sorted. `::` stands
between words.
"""

from __future__ import annotations

import fnmatch
import re
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING

from embedstore.errors import SourceError, UsageError
from embedstore.sources.reading.files import RemoteFile, at, is_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedstore.sources.reading.files import File

MOST_FILES = 1_000_000
_AT_ONCE = 16
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?|([A-Za-z])\.\.([A-Za-z])(?:\.\.(-?\d+))?")
_MAGIC = re.compile(r"[*?\[]")


def is_pattern(text: str) -> bool:
    """Whether `text` means several files."""
    return bool(_MAGIC.search(text)) or "::" in text or bool(re.search(r"\{.*(,|\.\.).*\}", text))


def expand(text: str, *, endings: tuple[str, ...], what: str) -> list[File]:
    """The files that `text` names: one file, a folder (all in it that end so), or a pattern; none twice.

    Raises `SourceError` where a named file is not there or nothing fits.
    """
    found: dict[File, None] = {}
    missing: list[str] = []
    for word in text.split("::"):
        names = list(islice(expand_braces(word), MOST_FILES + 1))
        if len(names) > MOST_FILES:
            raise UsageError("braces that stand for too many files", found=word, allowed=MOST_FILES)
        for name, files in zip(names, _looked_up(names, endings), strict=True):
            found.update(dict.fromkeys(files))
            if not files:
                missing.append(name)
        if len(found) > MOST_FILES:
            raise UsageError("too many files", found=word, allowed=MOST_FILES)
    if missing:
        several = len(found) + len(missing) > 1
        raise SourceError(
            f"{len(missing)} of {len(found) + len(missing)} {what}s are not there"
            if several
            else f"there is no such {what}",
            found=", ".join(missing[:3]) + (", …" if len(missing) > 3 else ""),
            todo="correct the pattern, or bring the rest" if several else None,
        )
    return list(found)


def expand_braces(word: str) -> Iterator[str]:
    """The words that one with braces stands for, in its order; braces that mean nothing stay as they are."""
    start = word.find("{")
    while start >= 0:
        stop = _closing(word, start)
        inside = None if stop is None else _alternatives(word[start + 1 : stop])
        if stop is not None and inside is not None:
            for head in inside:
                for tail in expand_braces(word[stop + 1 :]):
                    yield f"{word[:start]}{head}{tail}"
            return
        start = word.find("{", start + 1)
    yield word


def _closing(word: str, start: int) -> int | None:
    depth = 0
    for k in range(start, len(word)):
        depth += {"{": 1, "}": -1}.get(word[k], 0)
        if depth == 0:
            return k
    return None


def _alternatives(inside: str) -> Iterator[str] | None:
    counted = _RANGE.fullmatch(inside)
    if counted is not None:
        return _letters(counted) if counted[4] else _numbers(counted)
    pieces, depth, begun = [], 0, 0
    for k, letter in enumerate(inside):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            pieces.append(inside[begun:k])
            begun = k + 1
    if not pieces:
        return None
    return (word for piece in [*pieces, inside[begun:]] for word in expand_braces(piece))


def _steps(first: int, last: int, step: str | None) -> range:
    by = abs(int(step or 1)) or 1
    return range(first, last + 1, by) if first <= last else range(first, last - 1, -by)


def _numbers(counted: re.Match[str]) -> Iterator[str]:
    ends = counted[1], counted[2]
    padded = any(re.match(r"-?0\d", end) for end in ends)
    width = max(map(len, ends)) if padded else 0
    return (f"{k:0{width}d}" for k in _steps(int(ends[0]), int(ends[1]), counted[3]))


def _letters(counted: re.Match[str]) -> Iterator[str]:
    return (chr(k) for k in _steps(ord(counted[4]), ord(counted[5]), counted[6]))


def _looked_up(names: list[str], endings: tuple[str, ...]) -> Iterator[list[File]]:
    # A server is asked about each file that is named: many at once.
    if len(names) == 1 or not is_url(names[0]):
        yield from (_files_of(name, endings) for name in names)
        return
    with ThreadPoolExecutor(_AT_ONCE, "look-up") as pool:
        yield from pool.map(lambda name: _files_of(name, endings), names)


def _files_of(name: str, endings: tuple[str, ...]) -> list[File]:
    magic = _MAGIC.search(name)
    if magic and is_url(name):
        return _matching(name)
    place = at(name)
    if place.is_file():
        return [place]
    if magic:
        return _matching(name)
    if isinstance(place, RemoteFile) and place.name.lower().endswith(endings):
        return []
    if not place.is_dir():
        return []
    return [place.child(n) for n in place.listing()[0] if n.lower().endswith(endings) and n[0] != "."]


def _matching(pattern: str) -> list[File]:
    # Folder by folder, so that a URL is listed as a folder of this machine is.
    magic = _MAGIC.search(pattern)
    cut = pattern.rfind("/", 0, magic.start() if magic else None) + 1
    base, parts = pattern[:cut], pattern[cut:].split("/")
    if "**" in parts:
        raise UsageError("** is not known in a pattern", found=pattern, todo="name the folders, or use *")
    places: list[File] = [at(base or ".")]
    for k, part in enumerate(parts):
        last = k == len(parts) - 1
        places = [p for folder in places for p in _named(folder, part, files=last)]
    return places


def _named(folder: File, part: str, *, files: bool) -> list[File]:
    if not _MAGIC.search(part):
        return [folder.child(part)] if not files or folder.child(part).is_file() else []
    if not folder.remote and not folder.is_dir():
        return []
    names = list(folder.listing()[0]) if files else folder.listing()[1]
    return [folder.child(n) for n in names if fnmatch.fnmatchcase(n, part) and not n.startswith(".")]
