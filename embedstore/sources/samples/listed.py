"""Samples that a file lists, whatever its format: what the json and text file sources have in common."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedstore.errors import SourceError
from embedstore.sources.reading.files import LocalFile, RemoteFile
from embedstore.sources.reading.files import at as file_at
from embedstore.sources.reading.rows import TEXT, TEXTS, Rows
from embedstore.sources.reading.tables import clean_rows
from embedstore.sources.samples.grouped import GroupedSource
from embedstore.sources.samples.grouping import group_rows
from embedstore.sources.samples.places import Places

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from embedstore.sources.base import Picture
    from embedstore.sources.reading.files import File

_FLUSH = 65_536
_LOOK_UPS = 32


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

    def __init__(self, folder: File, image_root: Path | File | None, near: Sequence[str]) -> None:
        super().__init__(folder, image_root)
        self._near = [name for name in ("", *near) if image_root is None or not name.startswith("..")]
        bases = [_below(self.image_root or folder, name) for name in dict.fromkeys(self._near)]
        self._local = [str(base) for base in bases if not base.remote and base.is_dir()]
        self._remote = [base for base in bases if isinstance(base, RemoteFile)]

    def settle(self, names: Any, where: str) -> None:
        """Raise `SourceError` where not one of the pictures is there, and say where they were looked for.

        Behind a URL some of them are looked up, all over the list, and folders without any are passed over.
        """
        if self._remote:
            step = max(1, len(names) // _LOOK_UPS)
            some = [names[k].as_py() for k in range(0, len(names), step)][:_LOOK_UPS]
            self._remote = [base for base in self._remote if any(base.child(n).is_file() for n in some)]
            there = bool(self._remote)
        else:
            there = any(self.find(name.as_py()) is not None for name in names)
        if there:
            return
        beside = "the image root" if self.image_root is not None else "the file"
        tried = ", ".join(f"{name}/{names[0]}" if name else str(names[0]) for name in self._near)
        raise SourceError(
            "not one of the pictures is there",
            where=where,
            found=f"tried, relative to {beside}: {tried}",
            todo="give --image-root, the folder that holds the pictures",
        )


def _below(folder: File, name: str) -> File:
    # Where a folder of the published layout is; `..` is the folder above.
    if isinstance(folder, LocalFile):
        return LocalFile(folder.path / name)
    for part in filter(None, name.split("/")):
        folder = folder.parent if part == ".." else folder.child(part)
    return folder


class ListedSource(GroupedSource):
    """Samples of a file that names its pictures. A source kind reads its file to `Rows` and calls this.

    How rows become samples stands in `grouping`. A picture that is named but not there is a sample that is
    quarantined when it is opened; where not one of them is there the source is refused.
    """

    def __init__(
        self,
        rows: Rows,
        places: NearPlaces,
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
        places.settle(self._samples.images, where)
        self.dropped: dict[str, int] = {**(dropped or {}), "empty captions": self._samples.empty_captions}

    def _picture(self, index: int, id_: str) -> Picture:  # noqa: ARG002 - named by its file
        return self._places.picture(self._samples.images[index].as_py())


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


def place_of(text: str, what: str) -> File:
    """`text` as a path or URL; `SourceError` where nothing is at a path."""
    place = file_at(text)
    if isinstance(place, LocalFile) and not place.path.exists():
        raise SourceError(f"there is no such {what}", found=text)
    return place


def named(folder: File, name: str) -> File:
    """What an option names: a path below `folder`, or one of its own where it is absolute or a URL."""
    if "://" in name or name.startswith(("/", "~")):
        return file_at(name)
    return LocalFile(folder.path / name) if isinstance(folder, LocalFile) else folder.child(name)


def stem(name: str) -> str:
    """A file's name without its ending."""
    return name.rpartition(".")[0] or name


def names_in(folder: File, ending: str) -> list[str]:
    """Names of the files in a folder that end so, sorted; hidden ones not."""
    if not folder.is_dir():
        return []
    return [name for name in folder.listing()[0] if name.endswith(ending) and not name.startswith(".")]


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
