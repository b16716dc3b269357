"""Samples that a file lists, whatever its format: what the json and text file sources have in common."""

from __future__ import annotations

import operator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedstore.errors import SourceError, UsageError
from embedstore.sources.base import Sample
from embedstore.sources.files import is_url
from embedstore.sources.grouping import group_rows
from embedstore.sources.places import Places
from embedstore.sources.reading import clean_rows
from embedstore.sources.rows import TEXT, TEXTS, Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

_FLUSH = 65_536


class Columns:
    """Rows that a reader tells one after the other, kept as Arrow columns."""

    def __init__(self, *names: str) -> None:
        self._waiting: dict[str, list[Any]] = {name: [] for name in names}
        self._chunks: dict[str, list[Any]] = {name: [] for name in names}
        self.count = 0

    def add(self, **values: str | list[str] | None) -> None:
        """One row: a value for every column."""
        for name, waiting in self._waiting.items():
            waiting.append(values[name])
        self.count += 1
        if self.count % _FLUSH == 0:
            self._flush()

    def rows(self, place: Callable[[int], str]) -> Rows:
        """Everything that was told; `place(row)` says where a row stands."""
        self._flush()
        columns = {
            name: pa.chunked_array(chunks, _kind(name)).combine_chunks()
            for name, chunks in self._chunks.items()
        }
        return Rows(count=self.count, columns=columns, place=place)

    def _flush(self) -> None:
        for name, waiting in self._waiting.items():
            self._chunks[name].append(pa.array(waiting, _kind(name)))
            waiting.clear()


def _kind(name: str) -> Any:
    return TEXTS if name == "captions" else TEXT


class NearPlaces(Places):
    """Where the pictures of a known data set are looked for: the folders that it is published with.

    `near` are folders relative to `folder`, or to `image_root` where that is given; those that are not there
    are passed over. Only this list may lead out of the folder (`../val2017`), never a name inside a file.
    """

    def __init__(self, folder: Path, image_root: Path | None, near: Sequence[str]) -> None:
        super().__init__(folder, image_root)
        base = image_root or folder
        self._near = [name for name in ("", *near) if image_root is None or not name.startswith("..")]
        found = [base / name for name in dict.fromkeys(self._near)]
        self.bases = [path for path in found if path.is_dir()]

    def refuse_none(self, names: Iterable[str], where: str) -> None:
        """Raise `SourceError` where not one of `names` is there, and say where they were looked for."""
        first = ""
        for name in names:
            first = first or name
            if self.find(name) is not None:
                return
        beside = "the image root" if self.image_root is not None else "the file"
        tried = ", ".join(f"{name}/{first}" if name else first for name in self._near)
        raise SourceError(
            "not one of the pictures is there",
            where=where,
            found=f"tried, relative to {beside}: {tried}",
            todo="give --image-root, the folder that holds the pictures",
        )


class ListedSource:
    """Samples of a file that names its pictures. A source kind reads its file to `Rows` and calls this.

    How rows become samples stands in `grouping`. A picture that is named but not there is a sample that is
    quarantined when it is opened; where not one of them is there the source is refused.
    """

    shuffled = True

    def __init__(
        self,
        rows: Rows,
        places: Places,
        *,
        where: str,
        language: str,
        identity: Mapping[str, str | int | float | bool],
        dropped: Mapping[str, int] | None = None,
    ) -> None:
        rows = clean_rows(rows)
        rows = replace(rows, columns={**rows.columns, "image": places.plain_names(rows)})
        self._places, self._identity = places, {**identity, "language": language}
        self._samples = group_rows(rows, language=language)
        if not len(self._samples):
            raise SourceError("no samples in this source", where=where, found=f"{rows.count} rows")
        places.refuse_none((name.as_py() for name in self._samples.images), where)
        self.dropped: dict[str, int] = {**(dropped or {}), "empty captions": self._samples.empty_captions}

    @property
    def identity(self) -> Mapping[str, str | int | float | bool]:
        """Kind and options; what the file says is no part of it."""
        return dict(self._identity)

    @property
    def classes(self) -> tuple[str, ...]:
        """None: captions name no classes."""
        return ()

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(index)
        found = self._samples
        return Sample(
            id=found.ids[index].as_py(),
            picture=self._places.picture(found.images[index].as_py()),
            captions=found.captions(index),
            label=found.label[index],
            split=found.split[index],
        )


def refuse_twice(rows: Rows, column: str, problem: str) -> None:
    """`SourceError` naming both rows where a value of `column` stands twice."""
    values = rows.columns[column]
    codes = pc.fill_null(values.dictionary_encode().indices, -1).to_numpy(zero_copy_only=False)
    known, first = np.unique(codes[codes >= 0], return_index=True)
    if len(known) == (codes >= 0).sum():
        return
    again = np.ones(len(codes), dtype=bool)
    again[np.flatnonzero(codes >= 0)[first]] = False
    row = int(np.flatnonzero(again & (codes >= 0))[0])
    other = int(np.flatnonzero(codes == codes[row])[0])
    raise SourceError(problem, where=f"{rows.place(other)} and {rows.place(row)}", found=values[row].as_py())


def joined(parts: Sequence[Rows]) -> Rows:
    """The rows of several files, one after the other."""
    starts = np.cumsum([0, *(part.count for part in parts)])

    def place(row: int) -> str:
        at = int(np.searchsorted(starts, row, side="right")) - 1
        return parts[at].place(row - int(starts[at]))

    columns = {
        name: pa.chunked_array([part.columns[name] for part in parts], _kind(name)).combine_chunks()
        for name in parts[0].columns
    }
    return Rows(count=int(starts[-1]), columns=columns, place=place)


def local_path(place: str, what: str) -> Path:
    """`place` as a path of this machine; `SourceError` where nothing is there, `UsageError` for a URL."""
    if is_url(place):
        raise UsageError(
            "this kind of source is read from this machine only",
            found=place,
            allowed="URLs of a folder, a table, tar shards (webdataset:), hf: and laion:",
            todo="copy it here first",
        )
    path = Path(place).expanduser()
    if not path.exists():
        raise SourceError(f"there is no such {what}", found=place)
    return path


def chosen_splits(text: str | None) -> frozenset[str] | None:
    """The splits that an option `splits=test,val` takes; none: all."""
    return None if text is None else frozenset(part.strip() for part in text.split(",") if part.strip())


def refuse_other_splits(wanted: frozenset[str] | None, found: Iterable[str], where: str) -> None:
    """`SourceError` that names the splits there are, where one of `wanted` is not among them."""
    found = set(found)
    missing = sorted((wanted or frozenset()) - found)
    if missing:
        raise SourceError(
            f"no split {missing[0]!r}", where=where, found=", ".join(sorted(found)) or "no splits"
        )
