"""The source `coco:PATH`: COCO captions json, `captions_val2017.json` and what is written like it."""

from __future__ import annotations

import re
from array import array
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from embedstore.errors import SourceError
from embedstore.sources.reading.files import at as file_at
from embedstore.sources.reading.json_stream import an_object, json_parts, number_of, text_of
from embedstore.sources.reading.rows import TEXT
from embedstore.sources.samples.grouping import check_language
from embedstore.sources.samples.listed import (
    Columns,
    ListedSource,
    NearPlaces,
    joined,
    names_in,
    place_of,
    refuse_twice,
    stem,
)
from embedstore.sources.wording import split_options

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from embedstore.sources.reading.files import File
    from embedstore.sources.reading.rows import Rows

UNLISTED = "captions of images that the file does not list"
_SPLIT = re.compile(r"(?:^|_)(train|val|valid|validation|test|minival|restval)(?=\d|_|$)")
_SET = re.compile(r"(?:^|_)((?:train|val|test)\d*)(?=_|$)")


class CocoSource(ListedSource):
    """Images and captions of COCO json files: `{"images": [...], "annotations": [...]}`.

    An image needs `id` and `file_name`, an annotation `image_id` and `caption`; everything else is passed
    over. The sample's id is the `file_name`, captions stand in the order of the file, images without captions
    stay. The split is the word in the file's name (`captions_val2017.json`: val) unless `split` says another
    one. Annotations of images that are not listed are left out and counted; an image id or a
    file name that stands twice is refused. `path` may be the folder of COCO: all its `captions_*.json`,
    there or in `annotations`, are read as one.

    Pictures are looked for beside the file, in `images` and in the folder that the file's name says
    (`val2017`), there and beside its folder; or in the same places below `image_root`.
    """

    def __init__(
        self,
        path: Path | File,
        *,
        image_root: Path | File | None = None,
        split: str | None = None,
        language: str = "en",
    ) -> None:
        language = check_language(language)
        path = file_at(path)
        files = _files(path)
        read = [_read(file, split or _split_of(file.name)) for file in files]
        rows = joined([one for one, _ in read])
        refuse_twice(rows, "image", "one picture is listed twice")
        super().__init__(
            rows,
            NearPlaces(files[0].parent, image_root, _folders(files)),
            where=path.name,
            language=language,
            identity={"kind": "coco", **({} if split is None else {"split": split})},
            dropped={UNLISTED: sum(unlisted for _, unlisted in read)},
        )

    @classmethod
    def from_spec(cls, rest: str, **options: Any) -> CocoSource:
        """The source of `coco:PATH?split=NAME`."""
        place, written = split_options(rest, {"split": None})
        return cls(place_of(place, "file or folder"), **{**options, **written})


def _files(path: File) -> list[File]:
    if path.is_file():
        return [path]
    folders = [path, path.child("annotations")]
    found = [f.child(n) for f in folders for n in names_in(f, ".json") if n.startswith("captions_")]
    if not found:
        raise SourceError(
            "no captions_*.json in this folder or in its annotations",
            found=path,
            todo="name the json file itself",
        )
    return found


def _split_of(name: str) -> str | None:
    found = _SPLIT.search(stem(name))
    return found[1] if found else None


def _folders(files: Sequence[File]) -> list[str]:
    sets = [found[1] for file in files if (found := _SET.search(stem(file.name)))]
    inside = ["images", *(f"{parent}{name}" for name in sets for parent in ("", "images/"))]
    return [*inside, "..", *(f"../{name}" for name in inside)]


def _read(path: File, split: str | None) -> tuple[Rows, int]:
    # The rows of one file, one an image with all its captions, and how many captions have no image.
    row_of: dict[str, int] = {}
    names, texts = Columns("image"), Columns("caption")
    owners = array("q")
    early: list[tuple[int, str]] = []
    there: set[str | int] = set()
    for at, value in json_parts(path):
        if at.index is None:
            there.add(at.key)
            if at.key in ("images", "annotations") and value != []:
                raise SourceError("not a JSON array", where=at, found=ascii(value)[:80])
        elif at.key == "images":
            item = an_object(value, at)
            number = number_of(item, "id", at)
            if number in row_of:
                raise SourceError("an image id stands twice", where=at, found=number)
            row_of[number] = names.count
            names.add(image=text_of(item, "file_name", at))
        elif at.key == "annotations":
            item = an_object(value, at)
            number = number_of(item, "image_id", at)
            owners.append(row_of.get(number, -1))
            if owners[-1] < 0:
                early.append((texts.count, number))
            texts.add(caption=text_of(item, "caption", at))
    _refuse_other_format(path, there, names.count)
    for text, number in early:
        owners[text] = row_of.get(number, -1)
    owner = np.asarray(owners, dtype=np.int64)
    captions = texts.rows(str).columns["caption"]
    order = np.argsort(owner, kind="stable")[int((owner < 0).sum()) :]
    offsets = np.searchsorted(owner[order], np.arange(names.count + 1))
    rows = names.rows(lambda row: f"{path.name}, images[{row}]")
    lists = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), captions.take(pa.array(order)))
    columns = {**rows.columns, "captions": lists, "split": pa.array([split] * names.count, TEXT)}
    return replace(rows, columns=columns), int((owner < 0).sum())


def _refuse_other_format(path: File, there: set[str | int], images: int) -> None:
    missing = [key for key in ("images", "annotations") if key not in there]
    if missing:
        raise SourceError(
            f"no {missing[0]!r}",
            where=path.name,
            found=", ".join(sorted(map(str, there))[:8]) or "an empty file",
            allowed='COCO captions: {"images": [...], "annotations": [...]}',
        )
    if not images:
        raise SourceError("'images' is empty, or no list", where=path.name)
