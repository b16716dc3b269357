"""Rows of many Arrow and Parquet files: texts in batches, pictures where they lie.

An Arrow file is a stream of batches whose pictures stand as they are, so that each is read alone by its
offset. In Parquet they stand in row groups, which are read whole and kept while there is room.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from embedstore.errors import SourceError
from embedstore.sources.reading.files import LocalFile, arrow_input
from embedstore.sources.reading.parquet_bytes import KEEP_BYTES
from embedstore.sources.reading.pictures import BytesPicture, open_picture

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from PIL.Image import Image

    from embedstore.shapes import IntArray
    from embedstore.sources.reading.files import File

MOST_GROUP = 4 << 30
"""Bytes of one column in a row group of Parquet, which is read whole."""

DAMAGED = (pa.ArrowException, OSError, MemoryError, OverflowError, IndexError, ValueError)
"""What pyarrow raises where bytes do not mean what they should."""

_BATCH = 4096


def bytes_for_text(kind: Any) -> Any:
    """The Arrow type with bytes for its texts, so that nothing is decoded unseen."""
    if pt.is_dictionary(kind):
        kind = kind.value_type
    if pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind) or pt.is_large_binary(kind):
        return pa.large_binary()
    if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        return pa.large_list(bytes_for_text(kind.value_type))
    return kind


def _bytes_schema(schema: Any) -> Any:
    # The same layout with bytes for texts, so that one text that is no UTF-8 does not condemn its file.
    return pa.schema([field.with_type(_same_layout(field.type)) for field in schema])


def _same_layout(kind: Any) -> Any:
    for is_text, as_bytes in _AS_BYTES:
        if is_text(kind):
            return as_bytes
    if pt.is_struct(kind):
        return pa.struct(
            [f.with_type(_same_layout(f.type)) for f in (kind.field(i) for i in range(kind.num_fields))]
        )
    if pt.is_list(kind):
        return pa.list_(kind.value_field.with_type(_same_layout(kind.value_type)))
    if pt.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_same_layout(kind.value_type)))
    return kind


_AS_BYTES = (
    (pt.is_string, pa.binary()),
    (pt.is_large_string, pa.large_binary()),
    (pt.is_string_view, pa.binary_view()),
)


def plain_values(column: Any, where: str) -> list[Any]:
    """A column's values, texts as bytes. `SourceError` where the file is damaged."""
    try:
        column = column.cast(bytes_for_text(column.type))
        column.validate(full=True)
    except DAMAGED as bad:
        raise SourceError("a damaged column", where=where, found=str(bad)[:200]) from None
    return column.to_pylist()  # type: ignore[no-any-return]  # pyarrow is untyped


@dataclass(frozen=True, slots=True)
class Found:
    """Pictures of some rows in an Arrow file: `offset` and `nbytes (n,)` int64, −1 where there is none."""

    offset: IntArray
    nbytes: IntArray


def read_schema(file: File, kind: str) -> Any:
    """The Arrow schema of a part. `SourceError` where it cannot be read."""
    try:
        with arrow_input(file) as stream:
            schema = pq.read_schema(stream) if kind == "parquet" else pa.ipc.open_stream(stream).schema
            for field in schema:
                _names_within(field)  # one that is no UTF-8 raises where it is read, so all are read here
            return schema
    except DAMAGED as bad:
        raise SourceError("not a file that can be read", where=file.name, found=str(bad)[:200]) from None


def _names_within(field: Any) -> list[str]:
    kind = field.type
    fields = [kind.field(i) for i in range(kind.num_fields)] if pt.is_nested(kind) else []
    return [field.name, *(name for one in fields for name in _names_within(one))]


def arrow_batches(
    file: File, columns: Sequence[str], image: str | None
) -> Iterator[tuple[Any, Found | None]]:
    """Batches of `columns` of an Arrow file with the places of its pictures, which are not touched here."""
    opened = pa.memory_map(str(file.path)) if isinstance(file, LocalFile) else pa.PythonFile(file.open())
    with opened as source:
        reader = pa.ipc.MessageReader.open_stream(source)
        try:
            schema = _bytes_schema(pa.ipc.read_schema(reader.read_next_message()))
            _refuse_other_columns(schema, columns, image, file)
            while (message := _next(reader)) is not None:
                if message.type != "record batch":
                    raise SourceError(
                        "dictionaries in an Arrow file", where=file.name, todo="save it as Parquet"
                    )
                start = source.tell() - message.body.size
                batch = pa.ipc.read_record_batch(message, schema)
                # Nothing else may look at it before: a false offset reads memory that is not there.
                batch.validate(full=True)
                found = None if image is None else _places(batch.column(image), message.body, start, file)
                yield batch.select(list(columns)), found
        except (*DAMAGED, StopIteration) as bad:
            raise SourceError("a damaged Arrow file", where=file.name, found=str(bad)[:200]) from None


def _refuse_other_columns(schema: Any, columns: Sequence[str], image: str | None, file: File) -> None:
    """`SourceError` for a file that lacks a column of the first one, or holds pictures in another form."""
    wanted = [*columns, *([] if image is None else [image])]
    lacking = [name for name in wanted if name not in schema.names]
    if lacking:
        raise SourceError(
            f"no column {lacking[0]!r}, which the first file of the data set has",
            where=file.name,
            found=", ".join(schema.names[:12]) or "no columns",
        )
    if image is None:
        return
    kind = schema.field(image).type
    if pt.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_null(kind)):
        raise SourceError(f"column {image!r} holds no pictures", where=file.name, found=kind)


def _next(reader: Any) -> Any:
    try:
        return reader.read_next_message()
    except StopIteration:
        return None


def _places(column: Any, body: Any, start: int, file: File) -> Found:
    data = pc.struct_field(column, "bytes") if pt.is_struct(column.type) else column
    if pt.is_null(data.type):
        return Found(np.zeros(len(data), np.int64), np.full(len(data), -1, np.int64))
    _, offsets, values = data.buffers()
    width = np.int64 if pt.is_large_binary(data.type) else np.int32
    stops = np.frombuffer(offsets, width)[data.offset : data.offset + len(data) + 1].astype(np.int64)
    base = 0 if values is None else values.address - body.address
    if not 0 <= base <= body.size:
        raise SourceError("compressed Arrow files are not read", where=file.name, todo="save it as Parquet")
    there = data.is_valid().to_numpy(zero_copy_only=False)
    return Found(start + base + stops[:-1], np.where(there, np.diff(stops), -1))


class RowGroups:
    """One column of pictures in many Parquet files, by file and row; thread-safe, sent to processes cheaply.

    Row groups are kept up to `KEEP_BYTES` together, the least recently used given up first.
    """

    def __init__(self, files: Sequence[File], column: str) -> None:
        self._files, self._column = list(files), column
        self._metadata = [read_metadata(file) for file in files]
        self._ends = [
            np.cumsum([m.row_group(g).num_rows for g in range(m.num_row_groups)], dtype=np.int64)
            for m in self._metadata
        ]
        self.nbytes = sum(self._group_bytes(f, g) for f in range(len(files)) for g in self._groups_of(f))
        self._reset()

    def _reset(self) -> None:
        self._kept: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_kept", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._reset()

    @property
    def fits(self) -> bool:
        """Whether all pictures together stay in memory, so that any order of reading is cheap."""
        return self.nbytes <= KEEP_BYTES

    def _groups_of(self, file: int) -> range:
        return range(self._metadata[file].num_row_groups)

    def _group_bytes(self, file: int, group: int) -> int:
        # Of the whole row group: what a footer says of a single column can end the process (pyarrow 26).
        total = int(self._metadata[file].row_group(group).total_byte_size)
        if total > MOST_GROUP:
            raise SourceError(
                "a row group too large",
                where=self._files[file].name,
                found=f"{total} bytes",
                allowed=MOST_GROUP,
            )
        return total

    def there(self, file: int) -> IntArray:
        """Which rows of a file hold a picture, bool, without reading pictures where their names say it.

        A column of bytes without names that is too large to be kept is taken to hold one in every row.
        """
        return np.concatenate([np.zeros(0, np.bool_), *(self._valid(file, g) for g in self._groups_of(file))])

    def _valid(self, file: int, group: int) -> Any:
        if self._named and not self._outside:
            named = self._names(file, group)
            if named.all():
                return named
        if not self._named and not self.fits:
            return np.ones(self._metadata[file].row_group(group).num_rows, np.bool_)
        return self._held(file, group)

    def _held(self, file: int, group: int) -> Any:
        return self._group(file, group).is_valid().to_numpy(zero_copy_only=False)

    def _names(self, file: int, group: int) -> Any:
        paths = pc.struct_field(self._column_of(file, group, f"{self._column}.path"), "path")
        return paths.is_valid().to_numpy(zero_copy_only=False)

    @cached_property
    def _named(self) -> bool:
        return _has_names(read_schema(self._files[0], "parquet").field(self._column).type)

    @cached_property
    def _outside(self) -> bool:
        # Names without bytes: the pictures were left where they are. One row group tells.
        for file in range(len(self._files)):
            for group in self._groups_of(file):
                return bool((self._names(file, group) & ~self._held(file, group)).any())
        return False

    def get(self, file: int, row: int) -> bytes:
        """The encoded bytes of one row; empty where the row has none."""
        ends = self._ends[file]
        group = int(np.searchsorted(ends, row, side="right"))
        first = int(ends[group - 1]) if group else 0
        return self._group(file, group)[row - first].as_py() or b""

    def _group(self, file: int, group: int) -> Any:
        with self._lock:
            if (file, group) not in self._kept:
                self._kept[file, group] = self._read(file, group)
                while len(self._kept) > 1 and sum(g.nbytes for g in self._kept.values()) > KEEP_BYTES:
                    self._kept.popitem(last=False)
            self._kept.move_to_end((file, group))
            return self._kept[file, group]

    def _read(self, file: int, group: int) -> Any:
        column = self._column_of(file, group, self._column)
        data = pc.struct_field(column, "bytes") if pt.is_struct(column.type) else column
        return data.cast(pa.binary()) if pt.is_null(data.type) else data

    def _column_of(self, file: int, group: int, column: str) -> Any:
        try:
            with (
                arrow_input(self._files[file]) as stream,
                pq.ParquetFile(stream, metadata=self._metadata[file]) as opened,
            ):
                return opened.read_row_group(group, columns=[column]).column(0)
        except DAMAGED as bad:
            where = self._files[file].name
            raise SourceError("a damaged Parquet file", where=where, found=str(bad)[:200]) from None


def _has_names(kind: Any) -> bool:
    return bool(pt.is_struct(kind)) and any(kind.field(i).name == "path" for i in range(kind.num_fields))


def read_metadata(file: File) -> Any:
    """The footer of a Parquet file. `SourceError` where it cannot be read."""
    try:
        with arrow_input(file) as stream:
            return pq.read_metadata(stream)
    except DAMAGED as bad:
        raise SourceError(
            "not a Parquet file that can be read", where=file.name, found=str(bad)[:200]
        ) from None


def parquet_batches(file: File, columns: Sequence[str]) -> Iterator[Any]:
    """Batches of `columns` of a Parquet file."""
    try:
        with arrow_input(file) as stream, pq.ParquetFile(stream) as opened:
            _refuse_other_columns(opened.schema_arrow, columns, None, file)
            yield from opened.iter_batches(batch_size=_BATCH, columns=list(columns))
    except DAMAGED as bad:
        raise SourceError("a damaged Parquet file", where=file.name, found=str(bad)[:200]) from None


@dataclass(frozen=True, slots=True)
class GroupPicture:
    """A picture in a row of some Parquet files. Its size is not known before its row group is read."""

    groups: RowGroups
    file: int
    row: int
    ref: str
    nbytes: int | None = None

    def __reduce__(self) -> tuple[type[BytesPicture], tuple[bytes, str]]:
        """To another process as its bytes: row groups are read and kept in one place."""
        return BytesPicture, (self.groups.get(self.file, self.row), self.ref)

    def open(self) -> Image:
        """The decoded picture, mode RGB, upright. Raises `UnreadableImage`."""
        return open_picture(self.groups.get(self.file, self.row))
