"""The source `xtd:FOLDER`: one list of pictures and a file of captions for every language, as XTD has it."""

from __future__ import annotations

import re
from array import array
from typing import TYPE_CHECKING, Any

from embedstore.errors import SourceError, UsageError
from embedstore.sources.reading.files import at as file_at
from embedstore.sources.reading.lines import lines_of
from embedstore.sources.samples.listed import Columns, ListedSource, NearPlaces, place_of
from embedstore.sources.wording import split_options

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from embedstore.sources.reading.files import File
    from embedstore.sources.reading.rows import Rows

_CAPTIONS = "test_1kcaptions_{language}.txt"
_NAMES = "test_image_names.txt"
_TAG = r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,8})*"
_SPLIT = re.compile(r"(?:^|[_.])(train|val|valid|dev|test)(?=[\d_.]|$)")
ISO = {"jp": "ja", "cn": "zh", "kr": "ko", "cz": "cs", "ua": "uk"}
"""Codes that data sets use in place of the ISO 639 ones."""


class XtdSource(ListedSource):
    """Pictures with captions in many languages: line k of every file belongs to picture k.

    `names` is the list of pictures (default `test_image_names.txt`), `captions` the name of the caption files
    with `{language}` in it (default `test_1kcaptions_{language}.txt`); both are looked for in `path` and in
    the folders directly below it, as XTD-10 has them (`XTD10`, `MIC`, `STAIR`). Multi30k is read by
    `names=test_2016_flickr.txt&captions=test_2016_flickr.{language}`. The language is what stands in the
    file's name, in its ISO 639 form (`jp` is ja). Files of another number of lines than the list are refused,
    and so are two different files for one language; equal ones are one. A blank line is a caption that is not
    there, counted. The sample's id is the picture's name, its captions stand in the order of the languages,
    and its split is the word in the list's name.
    """

    def __init__(
        self,
        path: Path | File,
        *,
        image_root: Path | File | None = None,
        names: str = _NAMES,
        captions: str = _CAPTIONS,
    ) -> None:
        if captions.count("{language}") != 1 or "/" in captions or "/" in names:
            raise UsageError(
                "bad name of the list or of the caption files",
                found=f"{names}, {captions}",
                allowed="names of files, that of the captions with {language} in it once",
            )
        path = file_at(path)
        listed = _list_of_pictures(path, names)
        files = _by_language(path, captions, names)
        split = _SPLIT.search(names)
        sets = sorted({found[1] for name in listed if (found := re.match(r"COCO_(\w+?)_\d+\.", name))})
        super().__init__(
            _rows(files, listed, names, split[1] if split else None),
            NearPlaces(path, image_root, ["images", *sets, *(f"images/{name}" for name in sets)]),
            where=path.name,
            language="en",
            identity={"kind": "xtd", "languages": ",".join(files)},
        )

    @classmethod
    def from_spec(cls, rest: str, **options: Any) -> XtdSource:
        """The source of `xtd:FOLDER?names=LIST&captions=NAME_{language}.txt`."""
        place, written = split_options(rest, {"names": None, "captions": None})
        return cls(place_of(place, "folder"), **{**options, **written})


def _places(path: File) -> Iterator[File]:
    if not path.is_dir():
        raise SourceError("not a folder", found=path)
    yield path
    yield from (path.child(name) for name in path.listing()[1] if not name.startswith("."))


def _list_of_pictures(path: File, names: str) -> list[str]:
    found = [f.child(names) for f in _places(path) if f.child(names).is_file()]
    if len(found) != 1:
        raise SourceError(
            f"{'no' if not found else 'more than one'} list of pictures {names}",
            found=path,
            todo="name it: xtd:FOLDER?names=FILE",
        )
    listed: dict[str, int] = {}
    for number, line in lines_of(found[0]):
        name = line.strip()
        if not name:
            raise SourceError("a blank line in the list of pictures", where=f"{names}, line {number}")
        if listed.setdefault(name, number) != number:
            raise SourceError(
                "one picture is listed twice", where=f"{names}, lines {listed[name]} and {number}", found=name
            )
    return list(listed)


def _by_language(path: File, captions: str, names: str) -> dict[str, File]:
    before, _, after = captions.partition("{language}")
    form = re.compile(re.escape(before) + f"({_TAG})" + re.escape(after))
    found: dict[str, File] = {}
    for folder in _places(path):
        for name in folder.listing()[0]:
            match = form.fullmatch(name)
            if match is None or name == names:
                continue
            file = folder.child(name)
            code = match[1].lower().replace("_", "-")
            language = ISO.get(code, code)
            known = found.setdefault(language, file)
            if known is not file and list(lines_of(known)) != list(lines_of(file)):
                raise SourceError(
                    f"two different files for the language {language!r}",
                    found=f"{known.parent.name}/{known.name} and {folder.name}/{name}",
                )
    if not found:
        raise SourceError(
            f"no caption files {captions}",
            found=path,
            todo="name them: xtd:FOLDER?captions=NAME_{language}.txt",
        )
    return dict(sorted(found.items()))


def _rows(files: dict[str, File], listed: list[str], names: str, split: str | None) -> Rows:
    columns, numbers = Columns("image", "caption", "language", "split"), array("q")
    order = list(files.items())
    for language, file in order:
        count = 0
        for number, line in lines_of(file):
            count = number
            if number <= len(listed):
                columns.add(image=listed[number - 1], caption=line, language=language, split=split)
                numbers.append(number)
        if count != len(listed):
            raise SourceError(
                "another number of lines than the list of pictures",
                where=file.name,
                found=count,
                allowed=f"{len(listed)}, as in {names}",
            )
    size = len(listed)
    return columns.rows(lambda row: f"{order[row // size][1].name}, line {numbers[row]}")
