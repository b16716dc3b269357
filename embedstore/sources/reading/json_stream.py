"""JSON files read element by element, so that memory does not grow with the file.

What is held at once is one element of an array (or one value of the outermost object): at most
`MOST_CHARACTERS`. Nothing here knows what the values mean.
"""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TextIO

from embedstore.errors import SourceError
from embedstore.sources.reading.files import at as file_at
from embedstore.sources.reading.files import open_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from embedstore.sources.reading.files import File

MOST_CHARACTERS = 1 << 24
"""The longest single value: long descriptions with masks pass, a file that is one endless value does not."""

_CHUNK = 1 << 20
_BLANKS = " \t\n\r"
_BLANK = re.compile(r"[ \t\n\r]*")
_BEHIND = frozenset(",:]} \t\n\r")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class At:
    """Where a value stands; as text for example `captions.json, annotations[12]`."""

    name: str
    key: str | int
    index: int | None = None

    def __str__(self) -> str:
        key = f"[{self.key}]" if isinstance(self.key, int) else self.key
        return f"{self.name}, {key}" + ("" if self.index is None else f"[{self.index}]")


def json_parts(place: Path | File) -> Iterator[tuple[At, Any]]:
    """The elements of the outermost array, or the values of the outermost object and their elements.

    An array inside the outermost object comes as an empty list under its key, so that its being there is
    known, and then element by element. Raises `SourceError` that says at which character a file stops being
    JSON, for a key that stands twice, for a value that is too long or nested too deeply, and for text that
    is not UTF-8.
    """
    with _opened(place) as window:
        yield from window.parts()


def json_value(place: Path | File) -> Any:
    """The one value of a small file. Raises `SourceError` as `json_parts` does."""
    with _opened(place) as window:
        value = window.value()
        window.refuse_more()
        return value


def an_object(value: object, at: object) -> Mapping[str, Any]:
    """`value` as a JSON object; `SourceError` where it is something else."""
    if not isinstance(value, dict):
        raise SourceError("not a JSON object", where=at, found=_short(value))
    return value


def text_of(item: Mapping[str, Any], key: str, at: object) -> str:
    """The text under `key`; `SourceError` where there is none, or something else than text."""
    value = item.get(key)
    if isinstance(value, str):
        return plain(value, key, at)
    if key not in item:
        raise SourceError(f"no {key!r}", where=at, found=_keys(item))
    raise SourceError(f"{key!r} is not text", where=at, found=_short(value))


def number_of(item: Mapping[str, Any], key: str, at: object) -> str:
    """An id under `key`, whole number or text, as text; `SourceError` where there is none."""
    value = item.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text_of(item, key, at)


def list_of(item: Mapping[str, Any], key: str, at: object) -> list[Any]:
    """The list under `key`; `SourceError` where there is none, or something else than a list."""
    value = item.get(key)
    if isinstance(value, list):
        return value
    if key not in item:
        raise SourceError(f"no {key!r}", where=at, found=_keys(item))
    raise SourceError(f"{key!r} is not a list", where=at, found=_short(value))


def plain(text: str, key: str, at: object) -> str:
    """`text` if it can be stored: no NUL character and no half of a surrogate pair."""
    if "\0" in text:
        raise SourceError(f"a NUL character in {key!r}", where=at)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SourceError(f"a lone surrogate in {key!r}", where=at) from None
    return text


@contextmanager
def _opened(place: Path | File) -> Iterator[_Window]:
    file = file_at(place)
    try:
        with open_text(file, newline="") as text:
            yield _Window(text, file.name)
    except UnicodeDecodeError:
        raise SourceError("not UTF-8", where=file.name, todo="save the file as UTF-8") from None
    except OSError as bad:
        raise SourceError(f"cannot be read: {bad.strerror or bad}", where=file.name) from None


def _keys(item: Mapping[str, Any]) -> str:
    # As a file of unknown origin has them: however many and long, and with whatever characters.
    text = ascii(", ".join(islice(item, 12)))[1:-1]
    return (text if len(text) <= 200 else text[:197] + "...") or "an empty object"


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."


class _Window:
    """The part of a file's text that is looked at."""

    def __init__(self, file: TextIO, name: str) -> None:
        self._file, self._name = file, name
        self._text, self._at, self._before, self._ended = "", 0, 0, False

    def parts(self) -> Iterator[tuple[At, Any]]:
        first = self._next()
        if first == "[":
            for index, value in enumerate(self._elements()):
                yield At(self._name, index), value
        elif first == "{":
            yield from self._members()
        else:
            raise self._wrong("neither a JSON object nor an array")
        self.refuse_more()

    def value(self) -> Any:
        """The value that begins here, however many characters of it are in the window yet."""
        while True:
            self._next()
            problem = None
            try:
                value, stop = _DECODER.raw_decode(self._text, self._at)
            except RecursionError:
                raise self._wrong("nested too deeply") from None
            except ValueError as bad:
                problem = getattr(bad, "msg", str(bad))
            # A number at the end of the window may go on behind it: 0 in what will be 0.5.
            if problem is None and (self._ended or self._text[stop : stop + 1] in _BEHIND):
                self._at = stop
                return value
            if self._ended:
                raise self._wrong(f"not valid JSON: {problem}")
            if len(self._text) - self._at > MOST_CHARACTERS:
                raise self._wrong(f"a value of more than {MOST_CHARACTERS} characters, or not valid JSON")
            self._more()

    def refuse_more(self) -> None:
        """Raise where anything but white space follows."""
        if self._next():
            raise self._wrong("something follows the JSON value")

    def _members(self) -> Iterator[tuple[At, Any]]:
        seen: set[str] = set()
        for _ in self._separated("}"):
            key = self.value()
            if not isinstance(key, str):
                raise self._wrong("not valid JSON: a key that is no text")
            if key in seen:
                raise SourceError("a key stands twice", where=self._name, found=_short(key))
            seen.add(key)
            self._take(":")
            if self._next() == "[":
                yield At(self._name, key), []
                for index, value in enumerate(self._elements()):
                    yield At(self._name, key, index), value
            else:
                yield At(self._name, key), self.value()

    def _elements(self) -> Iterator[Any]:
        for _ in self._separated("]"):
            yield self.value()

    def _separated(self, end: str) -> Iterator[None]:
        self._at += 1
        if self._next() == end:
            self._at += 1
            return
        while True:
            yield
            if self._next() == end:
                self._at += 1
                return
            self._take(",")

    def _take(self, wanted: str) -> None:
        if self._next() != wanted:
            raise self._wrong(f"not valid JSON: {wanted!r} is missing")
        self._at += 1

    def _next(self) -> str:
        # The next character that is not blank; empty at the end of the file.
        while True:
            found = self._text[self._at : self._at + 1]
            if found and found not in _BLANKS:
                return found
            match = _BLANK.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at == len(self._text):
                if self._ended:
                    return ""
                self._more()

    def _more(self) -> None:
        rest = self._text[self._at :]
        self._before += self._at
        # Twice what is waiting, so that a long value is tried few times.
        read = self._file.read(max(_CHUNK, len(rest)))
        self._text, self._at, self._ended = rest + read, 0, not read

    def _wrong(self, problem: str) -> SourceError:
        return SourceError(problem, where=f"{self._name}, character {self._before + self._at}")
