"""Text files line by line: UTF-8, numbered from 1, of bounded length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedstore.errors import SourceError
from embedstore.sources.reading.files import at as file_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from embedstore.sources.reading.files import File

MOST_BYTES = 1 << 24
"""The longest line: long descriptions pass, a file that is no text does not."""

_MARK = b"\xef\xbb\xbf"


def lines_of(place: Path | File) -> Iterator[tuple[int, str]]:
    """Number and text of every line, without its end; blank lines too. Raises `SourceError`."""
    file = file_at(place)
    try:
        with file.open() as stream:
            number = 0
            while line := stream.readline(MOST_BYTES + 1):
                number += 1
                if len(line) > MOST_BYTES:
                    raise SourceError("a line too long for a text", where=f"{file.name}, line {number}")
                yield number, _decoded(line.removeprefix(_MARK) if number == 1 else line, file.name, number)
    except OSError as bad:
        raise SourceError(f"cannot be read: {bad.strerror or bad}", where=file.name) from None


def _decoded(line: bytes, name: str, number: int) -> str:
    try:
        return line.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise SourceError(
            "not UTF-8", where=f"{name}, line {number}", todo="save the file as UTF-8"
        ) from None
