"""Files that say what the values of a mask mean: one name a line, values and names, or json."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from embedstore.errors import SourceError
from embedstore.sources.reading.files import at as file_at
from embedstore.sources.reading.json_stream import an_object, json_value, plain, text_of
from embedstore.sources.reading.lines import lines_of
from embedstore.sources.reading.tables import ending

if TYPE_CHECKING:
    from pathlib import Path

    from embedstore.sources.reading.files import File

_NUMBERED = re.compile(r"\s*(\d{1,9})\s*[:,;\t ]\s*(.*\S)\s*")
_VALUE_TITLES = ("id", "idx", "index", "value", "label", "class")
_FORM = "one name a line (from 0), VALUE: NAME, a header with Idx and Name, or json"


def read_class_list(place: Path | File) -> dict[int, str]:
    """Value -> class name, by value. Raises `SourceError`.

    Text: one name a line, the first being 0; or a value before each name, with `:`, a comma, a tab or a blank
    between (`12: bicycle`); or a table with a header that has `Idx` (or id, index, value) and `Name`, such as
    `objectInfo150.txt` of ADE20K. Json: a list of names, `{"0": NAME}`, or a list of `{"id", "name"}`.
    Of several names (`building, edifice`) the first is taken, all of them where the first is not unique.
    """
    path = file_at(place)
    found = _from_json(path) if ending(path.name) == ".json" else _from_lines(path)
    values = Counter(value for value, _, _ in found)
    for value, name, at in found:
        if values[value] > 1:
            raise SourceError("a value stands twice", where=at, found=value)
        if not name.strip():
            raise SourceError("an empty class name", where=at)
    first = Counter(_first(name) for _, name, _ in found)
    names = {value: _first(name) if first[_first(name)] == 1 else name for value, name, _ in found}
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        raise SourceError("a class name stands twice", where=path.name, found=twice[0])
    if not names:
        raise SourceError("no classes in this file", where=path.name, allowed=_FORM)
    return dict(sorted(names.items()))


def _first(name: str) -> str:
    return re.split(r"[,;]", name)[0].strip() or name.strip()


def _from_lines(path: File) -> list[tuple[int, str, str]]:
    lines = [
        (f"{path.name}, line {number}", plain(line, "line", path.name)) for number, line in lines_of(path)
    ]
    while lines and not lines[-1][1].strip():
        lines.pop()
    if not lines:
        return []
    titles = [title.strip().lower() for title in re.split(r"[\t,]", lines[0][1])]
    if "name" in titles and any(title in titles for title in _VALUE_TITLES):
        return _from_table(lines, titles, "\t" if "\t" in lines[0][1] else ",")
    numbered = [_NUMBERED.fullmatch(line) for _, line in lines]
    if all(numbered):
        return [(int(m[1]), m[2], at) for m, (at, _) in zip(numbered, lines, strict=True) if m]
    if any(not line.strip() for _, line in lines):
        raise SourceError("a blank line between the classes", where=path.name, allowed=_FORM)
    return [(value, line, at) for value, (at, line) in enumerate(lines)]


def _from_table(lines: list[tuple[str, str]], titles: list[str], between: str) -> list[tuple[int, str, str]]:
    value_at = next(titles.index(title) for title in _VALUE_TITLES if title in titles)
    name_at, found = titles.index("name"), []
    for at, line in lines[1:]:
        # The name may hold commas; it is the last column in the published lists.
        fields = line.split(between, len(titles) - 1)
        if len(fields) != len(titles) or not fields[value_at].strip().isdecimal():
            raise SourceError("not a value and a name", where=at, found=line[:80])
        found.append((int(fields[value_at]), fields[name_at], at))
    return found


def _from_json(path: File) -> list[tuple[int, str, str]]:
    whole = json_value(path)
    if isinstance(whole, dict):
        return [(_number(key, path.name), text_of(whole, key, path.name), path.name) for key in whole]
    if not isinstance(whole, list):
        raise SourceError("neither a list of classes nor an object", where=path.name, allowed=_FORM)
    return [_of_json(value, number, f"{path.name}, [{number}]") for number, value in enumerate(whole)]


def _of_json(value: object, number: int, at: str) -> tuple[int, str, str]:
    if isinstance(value, str):
        return number, plain(value, "name", at), at
    item = an_object(value, at)
    return _number(item.get("id"), at), text_of(item, "name", at), at


def _number(value: Any, at: str) -> int:
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) < 10):
        raise SourceError("the value of a class is no whole number", where=at, found=ascii(value)[:80])
    return int(text)
