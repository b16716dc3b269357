"""Arrow and Parquet files with a column of embeddings, one file or a folder of parts, read batch by batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from embedstore.errors import SourceError
from embedstore.interchange.values import Values, check_layout

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from embedstore.shapes import AnyArray, IntArray

_ENDINGS = {"parquet": (".parquet",), "arrow": (".arrow", ".feather", ".ipc")}
_BATCH_ROWS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFiles:
    """The parts of a table in name order, all with the schema of the first."""

    name: str
    kind: str
    parts: tuple[Path, ...]
    schema: pa.Schema

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Some columns, a bounded number of rows at a time, in order."""
        for part in self.parts:
            yield from _batches(part, self.kind, list(columns))

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Some columns whole: for ids and words, never for embeddings."""
        kept = pa.schema([self.schema.field(c) for c in columns])
        return pa.Table.from_batches(list(self.batches(columns)), schema=kept)

    def numbers(self, column: str) -> AnyArray:
        """One column of plain numbers, whole."""
        found: AnyArray = self.read([column])[column].to_numpy()
        return found

    def embedding_column(self, wanted: str | None) -> str:
        """The column of embeddings: the one named, `embedding`, or the only list of floats there is."""
        lists = [f.name for f in self.schema if _innermost(f.type) is not None]
        chosen = wanted or ("embedding" if "embedding" in lists else lists[0] if len(lists) == 1 else None)
        if chosen in lists:
            return str(chosen)
        raise SourceError(
            f"no column {chosen!r} of embeddings" if chosen else "which column holds the embeddings?",
            where=self.name,
            found=", ".join(f"{f.name}: {f.type}" for f in self.schema)[:300],
            allowed=", ".join(lists) or "a column of lists of floating numbers",
            todo=f"choose one: --column embedding={lists[0] if lists else 'NAME'}",
        )

    def values(self, column: str) -> Values:
        """The embeddings of a column: one shape for every row, ragged tokens padded with zeros at the end.

        Reads the column once to learn its shape where the type does not say it. `SourceError` names the first
        row that is null or has another width.
        """
        kind = self.schema.field(column).type
        axes, item = _innermost(kind) or (0, pa.null())
        shape, lengths = self._shape(column, axes)
        check_layout(shape, _DTYPES.get(str(item), str(item)), f"{self.name}, {column}")
        reader = _Forward(self, column, shape)
        return Values(
            shape=shape,
            dtype=_DTYPES[str(item)],
            cut=reader.cut,
            near=False,
            lengths=lengths if axes == 2 and not pt.is_fixed_size_list(kind) else None,
        )

    def _shape(self, column: str, axes: int) -> tuple[tuple[int, ...], IntArray]:
        lengths, widths, row = [np.empty(0, np.int64)], set[int](), 0
        for batch in self.batches([column]):
            rows = batch.column(0)
            outer = _lengths(rows, f"{self.name}, {column}", row)
            inner = outer if axes == 1 else _lengths(rows.flatten(), f"{self.name}, {column}", row)
            widths |= set(np.unique(inner).tolist())
            if len(widths) > 1:
                bad = int(np.flatnonzero(inner != inner[0])[0]) if len(set(inner.tolist())) > 1 else 0
                at = bad if axes == 1 else int(np.searchsorted(np.cumsum(outer), bad, side="right"))
                raise SourceError(
                    "rows differ in width",
                    where=f"{self.name}, {column}, row {row + at}",
                    found=f"widths {sorted(widths)}",
                )
            lengths.append(outer)
            row += len(rows)
        counts = np.concatenate(lengths)
        width = widths.pop() if widths else 0
        return ((row, width) if axes == 1 else (row, int(counts.max(initial=0)), width)), counts


_DTYPES = {"halffloat": "float16", "float16": "float16", "float": "float32", "double": "float64"}


def _is_list(kind: pa.DataType) -> bool:
    return bool(pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind))


def _innermost(kind: pa.DataType) -> tuple[int, pa.DataType] | None:
    """How many list levels (1 or 2) stand around which floating type; none for any other column."""
    axes = 0
    while _is_list(kind):
        kind, axes = kind.value_type, axes + 1
    return (axes, kind) if axes in (1, 2) and pt.is_floating(kind) else None


def _lengths(lists: Any, where: str, first: int) -> IntArray:
    if lists.null_count:
        row = first + int(np.flatnonzero(lists.is_null().to_numpy(zero_copy_only=False))[0])
        raise SourceError("a row has no embedding", where=f"{where}, row {row}", found="null")
    if pt.is_fixed_size_list(lists.type):
        return np.full(len(lists), lists.type.list_size, np.int64)
    found: IntArray = pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64)
    return found


class _Forward:
    """Rows of one column, read forwards; going back begins again."""

    def __init__(self, files: TableFiles, column: str, shape: tuple[int, ...]) -> None:
        self._files, self._column, self._shape = files, column, shape
        self._waiting: Iterator[pa.RecordBatch] = iter(())
        self._held: AnyArray | None = None
        self._next = -1
        self._first = 0

    def cut(self, start: int, stop: int) -> AnyArray:
        if self._next < 0 or start < self._first:
            self._waiting, self._held = self._files.batches([self._column]), None
            self._next = self._first = 0
        pieces = []
        while start < stop:
            while self._held is None or self._next <= start:
                self._advance()
            piece = self._held[start - self._first : stop - self._first]
            pieces.append(piece)
            start += len(piece)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _advance(self) -> None:
        self._held = self._block(next(self._waiting).column(0))
        self._first, self._next = self._next, self._next + len(self._held)

    def _block(self, lists: Any) -> AnyArray:
        if len(self._shape) == 2:
            return _flat(lists).reshape(len(lists), self._shape[1])
        tokens, width = self._shape[1:]
        lengths = _lengths(lists, self._column, 0)
        flat = _flat(lists.flatten()).reshape(-1, width)
        out = np.zeros((len(lists), tokens, width), flat.dtype)
        out[np.arange(tokens) < lengths[:, None]] = flat
        return out


def _flat(lists: Any) -> AnyArray:
    values = lists.flatten()
    if values.null_count:
        raise SourceError("an embedding holds a null", found=f"{values.null_count} of them in one block")
    found: AnyArray = values.to_numpy(zero_copy_only=False)
    return found


def open_tables(path: Path, kind: str) -> TableFiles:
    """A file, or a folder whose files of that kind are its parts in name order."""
    if path.is_dir():
        parts = tuple(sorted(p for p in path.iterdir() if p.suffix.lower() in _ENDINGS[kind] and p.is_file()))
    else:
        parts = (path,) if path.is_file() else ()
    if not parts:
        raise SourceError(f"there is no such file, or a folder without {kind} files", found=path)
    schemas = [_schema(p, kind) for p in parts]
    for part, schema in zip(parts, schemas, strict=True):
        if not schema.equals(schemas[0]):
            raise SourceError("the parts have different columns", where=part.name, found=str(schema.names))
    return TableFiles(name=path.name, kind=kind, parts=parts, schema=schemas[0])


def _schema(part: Path, kind: str) -> pa.Schema:
    try:
        if kind == "parquet":
            return pq.read_schema(part)
        with pa.memory_map(str(part)) as file:
            return _ipc(file).schema
    except (pa.ArrowException, OSError) as bad:
        raise SourceError(
            f"not a file of kind {kind} that can be read", where=part.name, found=str(bad)[:200]
        ) from None


def _ipc(file: Any) -> Any:
    """The Arrow file format, or else its stream format, which HF data sets are kept in."""
    try:
        return pa.ipc.open_file(file)
    except pa.ArrowInvalid:
        file.seek(0)
        return pa.ipc.open_stream(file)


def _batches(part: Path, kind: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    if kind == "parquet":
        # One row group after the other: asked for all of them, pyarrow keeps what it has read.
        with pq.ParquetFile(part) as file:
            for group in range(file.num_row_groups):
                yield from file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns)
        return
    with pa.memory_map(str(part)) as mapped:
        reader = _ipc(mapped)
        whole = (
            (reader.get_batch(i) for i in range(reader.num_record_batches))
            if isinstance(reader, pa.RecordBatchFileReader)
            else iter(reader)
        )
        for batch in whole:
            for at in range(0, len(batch), _BATCH_ROWS):
                yield batch.slice(at, _BATCH_ROWS).select(columns)
