"""The source `flickr:PATH`: the caption files of Flickr8k and Flickr30k."""

from __future__ import annotations

import re
from array import array
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from embedstore.errors import SourceError
from embedstore.sources.karpathy import NEAR
from embedstore.sources.reading.files import at as file_at
from embedstore.sources.reading.lines import lines_of
from embedstore.sources.reading.rows import TEXT, Rows
from embedstore.sources.samples.grouping import check_language
from embedstore.sources.samples.listed import (
    Columns,
    ListedSource,
    NearPlaces,
    chosen_splits,
    place_of,
    refuse_other_splits,
)
from embedstore.sources.wording import split_options

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from embedstore.sources.reading.files import File

_TOKEN = re.compile(r"(.+?)#\d+\t(.*)", re.DOTALL)
_LISTS = {
    "Flickr_8k.trainImages.txt": "train",
    "Flickr_8k.devImages.txt": "dev",
    "Flickr_8k.testImages.txt": "test",
    "train.txt": "train",
    "val.txt": "val",
    "test.txt": "test",
}
WITHOUT_CAPTION = "pictures of a split list that have no caption"


class FlickrSource(ListedSource):
    """Captions of `Flickr8k.token.txt`, `results_20130124.token`, `captions.txt` or `results.csv`.

    The spelling is told by the first line, not by the name: `NAME#K<tab>CAPTION`, or a header
    `image,caption` (then `NAME,CAPTION`, the caption in double quotes or not, commas in it or not), or a
    header `image_name| comment_number| comment`. The sample's id is the picture's name.

    Splits come from the lists of picture names in the same folder, `Flickr_8k.trainImages.txt`, its dev and
    test, or `train.txt`, `val.txt`, `test.txt` (with or without `.jpg`); a picture in two lists is refused,
    one in none has no split. `splits` (`test` or `val,test`) takes only these. The five captions that
    Flickr8k has for `2258277193_586949ec62.jpg.1`, which was never published, make one row that is
    quarantined.
    """

    def __init__(
        self,
        path: Path | File,
        *,
        image_root: Path | File | None = None,
        splits: str | None = None,
        language: str = "en",
    ) -> None:
        path, language = file_at(path), check_language(language)
        rows = _read(path)
        split_of, lost = _split_lists(path.parent, rows)
        names = rows.columns["image"].to_pylist()
        rows = _with_splits(rows, [split_of.get(name) for name in names])
        wanted = chosen_splits(splits)
        refuse_other_splits(wanted, set(split_of.values()), path.name)
        if wanted is not None:
            rows = _only(rows, [split_of.get(name) in wanted for name in names])
        identity = {"kind": "flickr"} if splits is None else {"kind": "flickr", "splits": splits}
        super().__init__(
            rows,
            NearPlaces(path.parent, image_root, (*NEAR, "..", *(f"../{name}" for name in NEAR))),
            where=path.name,
            language=language,
            identity=identity,
            dropped={WITHOUT_CAPTION: lost},
        )

    @classmethod
    def from_spec(cls, rest: str, **options: Any) -> FlickrSource:
        """The source of `flickr:PATH?splits=test`."""
        place, written = split_options(rest, {"splits": None})
        return cls(place_of(place, "file"), **{**options, **written})


def _read(path: File) -> Rows:
    columns, numbers = Columns("image", "caption"), array("q")
    split: Callable[[str], tuple[str, str] | None] | None = None
    for number, line in lines_of(path):
        if not line.strip():
            continue
        if split is None:
            split, header = _spelling(path, line)
            if header:
                continue
        found = split(line)
        if found is None:
            raise SourceError(
                "not a picture and its caption", where=f"{path.name}, line {number}", found=line[:80]
            )
        columns.add(image=found[0], caption=found[1])
        numbers.append(number)
    if not numbers:
        raise SourceError("no captions in this file", where=path.name)
    return columns.rows(lambda row: f"{path.name}, line {numbers[row]}")


def _spelling(path: File, first: str) -> tuple[Callable[[str], tuple[str, str] | None], bool]:
    if _TOKEN.fullmatch(first):
        return _token, False
    titles = [title.strip().lower() for title in re.split(r"[,|]", first)]
    if titles == ["image", "caption"]:
        return _comma, True
    if titles == ["image_name", "comment_number", "comment"]:
        return _bars, True
    raise SourceError(
        "not a caption file of Flickr8k or Flickr30k",
        where=f"{path.name}, line 1",
        found=first[:80],
        allowed="NAME#0<tab>CAPTION, or a header image,caption, or image_name| comment_number| comment",
        todo="other tables of captions are read by table:",
    )


def _token(line: str) -> tuple[str, str] | None:
    found = _TOKEN.fullmatch(line)
    return (found[1], found[2]) if found else None


def _comma(line: str) -> tuple[str, str] | None:
    # Not the csv module: the file quotes some captions that hold a comma, and not others.
    name, comma, text = line.partition(",")
    if not (comma and name.strip()):
        return None
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].replace('""', '"')
    return name, text


def _bars(line: str) -> tuple[str, str] | None:
    # One line of the published file lacks its second bar: `2199200615.jpg| 4   A dog runs ...`.
    name, bar, rest = line.partition("|")
    found = re.fullmatch(r"\s*\d+\s*\|?(.*)", rest, re.DOTALL)
    return (name, found[1]) if bar and name.strip() and found else None


def _split_lists(folder: File, rows: Rows) -> tuple[dict[str, str], int]:
    # Picture name -> split, and how many listed pictures have no caption.
    names = set(rows.columns["image"].unique().to_pylist())
    split_of: dict[str, str] = {}
    lost = 0
    for file, split in _LISTS.items():
        if not folder.child(file).is_file():
            continue
        for number, line in lines_of(folder.child(file)):
            name = line.strip()
            name = name if name in names else f"{name}.jpg"
            if name not in names:
                lost += bool(line.strip())
            elif split_of.setdefault(name, split) != split:
                raise SourceError(
                    "a picture in two split lists",
                    where=f"{file}, line {number}",
                    found=f"{name}: {split_of[name]} and {split}",
                )
    return split_of, lost


def _with_splits(rows: Rows, splits: list[str | None]) -> Rows:
    return Rows(count=rows.count, columns={**rows.columns, "split": pa.array(splits, TEXT)}, place=rows.place)


def _only(rows: Rows, taken: list[bool]) -> Rows:
    kept = np.flatnonzero(taken)
    columns = {name: column.take(pa.array(kept)) for name, column in rows.columns.items()}
    return Rows(count=len(kept), columns=columns, place=lambda row: rows.place(int(kept[row])))
