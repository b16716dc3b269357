"""The Parquet tables of a store: published schemas, writing in bounded memory, stable bytes.

Bytes are a function of the rows and of the installed pyarrow: no clock, fixed options, and row groups
and parts of a fixed number of rows however the rows arrive.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from embedstore.errors import CorruptStoreError, StorageValueError
from embedstore.store import files, layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path


def _field(
    name: str, kind: pa.DataType, description: str, *, nullable: bool = False
) -> pa.Field[pa.DataType]:
    return pa.field(name, kind, nullable=nullable, metadata={"description": description})


IMAGES = pa.schema(
    [
        _field("id", pa.string(), "id of the sample, unique in the table"),
        _field(
            "picture", pa.string(), "name of the picture inside its source; null: no picture", nullable=True
        ),
        _field("nbytes", pa.int64(), "size of the encoded picture, bytes; null where unknown", nullable=True),
        _field("label", pa.string(), "class name; null: none", nullable=True),
        _field("split", pa.string(), "e.g. train, val, test; null: none", nullable=True),
    ]
)
TEXTS = pa.schema(
    [
        _field("id", pa.string(), "'<image id>#<k>', or the text's own id; unique in the table"),
        _field("image", pa.int64(), "row of the images table; null: a text without an image", nullable=True),
        _field("text", pa.string(), "the text as the encoder was given it"),
        _field("language", pa.string(), "ISO 639-1 code"),
        _field("role", pa.string(), "caption, long or negative"),
        _field("category", pa.string(), "what a negative altered; null otherwise", nullable=True),
    ]
)
MASKS = pa.schema(
    [
        _field("image", pa.int64(), "row of the images table, ascending"),
        _field("png", pa.binary(), "8-bit grey PNG of class ids"),
    ]
)
THUMBNAILS = pa.schema(
    [
        _field("row", pa.int64(), "row of the images table, ascending"),
        _field("jpeg", pa.binary(), "small JPEG of the picture"),
    ]
)
QUARANTINE = pa.schema(
    [
        _field("row", pa.int64(), "row of the feature's table, ascending"),
        _field("id", pa.string(), "id of that row"),
        _field("reason", pa.string(), "why the row could not be read"),
    ]
)
UNITS = pa.schema(
    [
        _field("unit", pa.int64(), "number of the work unit, ascending; one line for each of its files"),
        _field("first", pa.int64(), "first row of the unit"),
        _field("stop", pa.int64(), "one past the last row of the unit"),
        _field("tokens", pa.int64(), "tokens stored in the unit, all its rows together"),
        _field("path", pa.string(), "file relative to the feature's folder"),
        _field("nbytes", pa.int64(), "size of the file, bytes"),
        _field("crc32c", pa.uint32(), "crc32c of the whole file"),
        _field("index_crc32c", pa.uint32(), "crc32c of a shard's index; null for other files", nullable=True),
    ]
)
SUBSET = pa.schema(
    [
        _field("row", pa.int64(), "row of the table, ascending"),
        _field("id", pa.string(), "id of that row"),
        _field("reason", pa.string(), "why the row is kept, or was dropped", nullable=True),
        _field("concept", pa.string(), "concept, class or entry that it is here for", nullable=True),
        _field("rank", pa.int64(), "place among the rows of its concept, from 1", nullable=True),
        _field("score", pa.float64(), "what it was chosen by, e.g. a cosine", nullable=True),
        _field("twin", pa.string(), "of a dropped row: id of the row that stands for it", nullable=True),
        _field("parent", pa.string(), "subset or store that it came from", nullable=True),
    ]
)
_MOST_ROWS_A_BYTE = 256
SCHEMAS = {
    "images": IMAGES,
    "texts": TEXTS,
    "masks": MASKS,
    "thumbnails": THUMBNAILS,
    "quarantine": QUARANTINE,
    "units": UNITS,
    "subset": SUBSET,
}


class ImageRow(TypedDict):
    """One row of the images table."""

    id: str
    picture: str | None
    nbytes: int | None
    label: str | None
    split: str | None


class TextRow(TypedDict):
    """One row of the texts table."""

    id: str
    image: int | None
    text: str
    language: str
    role: str
    category: str | None


class MaskRow(TypedDict):
    """One row of the masks table."""

    image: int
    png: bytes


Rows: TypeAlias = "Iterable[pa.RecordBatch | pa.Table | Mapping[str, Any]]"


@dataclass(frozen=True, slots=True)
class Cut:
    """Rows of one row group, and row groups of one part."""

    rows: int
    groups: int


_CUTS = {"images": Cut(65536, 16), "texts": Cut(65536, 16), "masks": Cut(256, 64), "subset": Cut(1 << 20, 1)}
_PLAIN = {"masks", "thumbnails"}


def arrow_schemas() -> dict[str, dict[str, Any]]:
    """Every table as a JSON value: `{"fields": [{"name", "type", "nullable", "description"}, …]}`."""
    return {
        name: {
            "fields": [
                {
                    "name": f.name,
                    "type": str(f.type),
                    "nullable": f.nullable,
                    "description": (f.metadata or {})[b"description"].decode(),
                }
                for f in schema
            ]
        }
        for name, schema in SCHEMAS.items()
    }


def _writer(sink: BinaryIO, table: str) -> pq.ParquetWriter:
    plain = table in _PLAIN
    return pq.ParquetWriter(
        sink,
        SCHEMAS[table],
        compression="none" if plain else "zstd",
        compression_level=None if plain else 3,
        use_dictionary=not plain,
        version="2.6",
        data_page_version="1.0",
        write_statistics=not plain,
        write_page_checksum=True,
    )


def write_file(final: Path, table: str, groups: Iterable[pa.Table], *, flush: bool = True) -> Path:
    """Write row groups under a temporary name beside `final`, flushed where asked; returns that name."""

    def fill(handle: int) -> None:
        with os.fdopen(os.dup(handle), "wb") as sink, _writer(sink, table) as out:
            for group in groups:
                out.write_table(group, row_group_size=max(1, len(group)))

    return files.write_temporary(final, fill, flush=flush)


def conform(batch: pa.RecordBatch | pa.Table, table: str) -> pa.Table:
    """The batch as a table of the published schema; `StorageValueError` where it does not fit."""
    schema = SCHEMAS[table]
    rows = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
    try:
        rows = rows.select(schema.names).cast(schema)
    except (KeyError, ValueError, pa.ArrowInvalid) as bad:
        raise StorageValueError(
            f"columns do not fit the table {table!r}", found=str(bad), allowed=", ".join(schema.names)
        ) from None
    return rows


def _batches(rows: Rows, table: str) -> Iterator[pa.RecordBatch | pa.Table]:
    """Batches as they come; single rows joined to batches of one row group."""
    waiting = iter(rows)
    for row in waiting:
        if isinstance(row, (pa.RecordBatch, pa.Table)):
            yield row
            continue
        more: list[Any] = [row, *islice(waiting, _CUTS[table].rows - 1)]
        try:
            yield pa.Table.from_pylist(more, schema=SCHEMAS[table])
        except (ValueError, TypeError, pa.ArrowException) as bad:
            raise StorageValueError(f"a row does not fit the table {table!r}", found=str(bad)[:200]) from None


def row_groups(rows: Rows, table: str) -> Iterator[pa.Table]:
    """Rows in groups of a fixed size, however they arrive; the last may be shorter."""
    size = _CUTS[table].rows
    waiting = SCHEMAS[table].empty_table()
    for batch in _batches(rows, table):
        waiting = pa.concat_tables([waiting, conform(batch, table)])
        while len(waiting) >= size:
            yield waiting.slice(0, size).combine_chunks()
            waiting = waiting.slice(size)
    if len(waiting):
        yield waiting.combine_chunks()


def read_table(store: Path, table: str, columns: list[str] | None = None) -> pa.Table:
    """All parts of a table, or some columns, in row order."""
    parts = layout.parts(store, table)
    if not parts:
        return SCHEMAS[table].empty_table().select(columns or SCHEMAS[table].names)
    return pa.concat_tables([read_file(p, table, columns) for p in parts])


def read_file(path: Path, table: str, columns: list[str] | None = None) -> pa.Table:
    """One Parquet file of the published schema; `CorruptStoreError` where it is not."""
    schema = SCHEMAS[table]
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as source:
            if source.schema_arrow.names != schema.names or source.schema_arrow.types != schema.types:
                raise CorruptStoreError(
                    f"the columns are not those of the table {table!r}",
                    where=path.name,
                    found=source.schema_arrow.names,
                )
            _refuse_rows(path, source.metadata.num_rows)
            return source.read(columns=columns)
    except (pa.ArrowException, OSError) as bad:
        raise CorruptStoreError("a table cannot be read", where=path.name, found=str(bad)[:200]) from None


def count_rows(store: Path, table: str) -> int:
    """Rows of a table, from the footers only; `CorruptStoreError` where one cannot be read or be true."""
    total = 0
    for path in layout.parts(store, table):
        try:
            rows = pq.read_metadata(path).num_rows
        except (pa.ArrowException, OSError) as bad:
            raise CorruptStoreError("a table cannot be read", where=path.name, found=str(bad)[:200]) from None
        _refuse_rows(path, rows)
        total += rows
    return total


def _refuse_rows(path: Path, rows: int) -> None:
    """A footer may say anything; rows with ids of their own take at least some bits of the file."""
    size = path.stat().st_size
    if not 0 <= rows <= size * _MOST_ROWS_A_BYTE:
        raise CorruptStoreError(
            "a table cannot hold so many rows", where=path.name, found=f"{rows} in {size} bytes"
        )


def part_size(table: str) -> int:
    """Row groups of one part."""
    return _CUTS[table].groups
