"""The source `laion:PATTERN`: Parquet files of captions whose pictures are only named by URLs."""

from __future__ import annotations

import bisect
import operator
import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embedstore.errors import SourceError
from embedstore.sources.base import Caption, Sample
from embedstore.sources.reading.arrow_parts import DAMAGED, MOST_GROUP, read_metadata, read_schema
from embedstore.sources.reading.files import arrow_input
from embedstore.sources.reading.patterns import expand
from embedstore.sources.reading.rows import TEXT, refuse_unknown_columns
from embedstore.sources.samples.grouping import check_language
from embedstore.sources.samples.text_columns import clean_languages, clean_texts
from embedstore.sources.wording import split_options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from embedstore.sources.reading.files import File

NAMES: Mapping[str, tuple[str, ...]] = {
    "caption": ("caption", "text", "alt_text", "alt"),
    "language": ("language", "lang"),
    "id": (),
}
"""Our column -> theirs without regard to case; the first that is there. An id only where one is named."""

KEEP_BYTES = 1 << 30
_OPTIONS: dict[str, Sequence[str] | None] = {"split": None}


class LaionSource:
    """A pool of texts in Parquet files, as large as it may be: at most `KEEP_BYTES` of captions are kept.

    Columns: the caption (`TEXT`, `caption` …), its `LANGUAGE` where it says a tag such as `en`, and an id
    only where `columns` names one, which may be the URL. Else the id is the file's name and the number of the
    row in it. Other columns are not read. Planning reads the captions once.

    `shuffled` is False where all captions together exceed `KEEP_BYTES`: row groups are then read in the order
    of the files. Captions that are empty, no UTF-8 or hold a NUL byte are left out and counted.
    """

    def __init__(
        self,
        pattern: str | Path,
        *,
        columns: Mapping[str, str] | None = None,
        language: str = "en",
        split: str | None = None,
    ) -> None:
        columns = dict(columns or {})
        refuse_unknown_columns(columns, NAMES)
        language = check_language(language)
        files = expand(str(pattern), endings=(".parquet",), what="Parquet file")
        self._groups = _Groups(files, columns, language)
        dropped = Counter[str]()
        sizes = [self._groups.load(number, dropped) for number in range(len(self._groups))]
        self._stops: list[int] = np.cumsum([rows for rows, _ in sizes], dtype=np.int64).tolist()
        self.dropped: dict[str, int] = {reason: count for reason, count in dropped.items() if count}
        if not len(self):
            raise SourceError("no captions in these files", found=self.dropped or "no rows")
        self._split = split
        self.shuffled = sum(nbytes for _, nbytes in sizes) <= KEEP_BYTES
        self._identity: dict[str, str | int | float | bool] = {"kind": "laion", "language": language}
        self._identity |= {"split": split} if split is not None else {}
        self._identity |= {f"column {ours}": theirs for ours, theirs in sorted(columns.items())}

    @classmethod
    def from_spec(cls, rest: str, **options: Any) -> LaionSource:
        """The source of `laion:PATTERN?split=NAME`."""
        place, said = split_options(rest, _OPTIONS)
        return cls(place, **(said | options))

    @property
    def identity(self) -> Mapping[str, str | int | float | bool]:
        """Kind, language, split and mapped columns; where the files lie is no part of it."""
        return dict(self._identity)

    @property
    def classes(self) -> tuple[str, ...]:
        """None."""
        return ()

    def __len__(self) -> int:
        return self._stops[-1] if self._stops else 0

    def __getitem__(self, index: int) -> Sample:
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect.bisect_right(self._stops, index)
        rows = self._groups.get(number)
        at = index - (self._stops[number - 1] if number else 0)
        caption = Caption(text=rows.texts[at].as_py(), language=rows.languages[at].as_py())
        return Sample(id=rows.ids[at].as_py(), captions=(caption,), split=self._split)


@dataclass(frozen=True, slots=True)
class _Rows:
    """The captions of one row group, cleaned."""

    ids: Any
    texts: Any
    languages: Any

    @property
    def nbytes(self) -> int:
        return int(self.ids.nbytes + self.texts.nbytes + self.languages.nbytes)

    def __len__(self) -> int:
        return len(self.texts)


class _Groups:
    """The row groups of all files, read when they are asked for; thread-safe, cheap to send to a process."""

    def __init__(self, files: Sequence[File], columns: Mapping[str, str], language: str) -> None:
        self._files, self._language = list(files), language
        stems = [file.name.removesuffix(".parquet") for file in files]
        several = len(set(stems)) < len(stems)
        self._stems = [f"{k}-{stem}" if several else stem for k, stem in enumerate(stems)]
        self._chosen: list[dict[str, str]] = []
        self._places: list[tuple[int, int, int]] = []
        for number, file in enumerate(files):
            metadata = read_metadata(file)
            self._chosen.append(_chosen(read_schema(file, "parquet").names, columns, file.name))
            first = 0
            for group in range(metadata.num_row_groups):
                self._places.append((number, group, first))
                first += _rows_of(metadata.row_group(group), file)
        self._reset()

    def _reset(self) -> None:
        self._kept: OrderedDict[int, _Rows] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_kept", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._reset()

    def __len__(self) -> int:
        return len(self._places)

    def get(self, number: int) -> _Rows:
        """One row group."""
        with self._lock:
            rows = self._kept.get(number)
            if rows is not None:
                self._kept.move_to_end(number)
                return rows
            return self._keep(number, self._read(number, Counter()))

    def load(self, number: int, dropped: Counter[str]) -> tuple[int, int]:
        """Read a row group for the first time: its rows and bytes; what is left out is counted."""
        with self._lock:
            rows = self._keep(number, self._read(number, dropped))
        return len(rows), rows.nbytes

    def _keep(self, number: int, rows: _Rows) -> _Rows:
        self._kept[number] = rows
        while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > KEEP_BYTES:
            self._kept.popitem(last=False)
        return rows

    def _read(self, number: int, dropped: Counter[str]) -> _Rows:
        file, group, first = self._places[number]
        where, chosen = self._files[file].name, self._chosen[file]
        try:
            with arrow_input(self._files[file]) as stream, pq.ParquetFile(stream) as opened:
                table = opened.read_row_group(group, columns=list(dict.fromkeys(chosen.values())))
        except DAMAGED as bad:
            raise SourceError("a damaged Parquet file", where=where, found=str(bad)[:200]) from None
        texts = clean_texts(table.column(chosen["caption"]), dropped, "captions", where)
        languages = pa.nulls(len(texts), TEXT)
        if "language" in chosen:
            languages = clean_languages(table.column(chosen["language"]), self._language, dropped, where)
        ids = self._ids(table, chosen, file, first)
        there = texts.is_valid()
        if pc.any(pc.and_(there, ids.is_null())).as_py():
            raise SourceError(f"a caption without a value in column {chosen['id']!r}", where=where)
        return _Rows(
            ids.filter(there), texts.filter(there), pc.fill_null(languages.filter(there), self._language)
        )

    def _ids(self, table: Any, chosen: Mapping[str, str], file: int, first: int) -> Any:
        if "id" in chosen:
            return clean_texts(table.column(chosen["id"]), Counter(), "ids", self._files[file].name)
        numbers = pa.array(np.arange(first, first + len(table))).cast(TEXT)
        return pc.binary_join_element_wise(pa.scalar(self._stems[file], TEXT), numbers, pa.scalar("/", TEXT))


def _rows_of(row_group: Any, file: File) -> int:
    if row_group.total_byte_size > MOST_GROUP:
        raise SourceError("a row group too large", where=file.name, allowed=f"{MOST_GROUP} bytes")
    return int(row_group.num_rows)


def _chosen(names: Sequence[str], columns: Mapping[str, str], where: str) -> dict[str, str]:
    chosen = {}
    by_lower = {name.lower(): name for name in reversed(names)}
    for ours, known in NAMES.items():
        if ours in columns:
            if columns[ours] and columns[ours] not in names:
                raise SourceError(f"no column {columns[ours]!r}", where=where, found=", ".join(names))
            theirs: str | None = columns[ours] or None
        else:
            theirs = next((by_lower[name] for name in known if name in by_lower), None)
        if theirs is not None:
            chosen[ours] = theirs
    if "caption" not in chosen:
        raise SourceError(
            "no column of captions",
            where=where,
            found=", ".join(names) or "no columns",
            todo="name it: --column caption=NAME",
        )
    return chosen
