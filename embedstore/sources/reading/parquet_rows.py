"""Parquet files: text columns of any Arrow type that means text, pictures as paths or as bytes."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from embedstore.errors import SourceError
from embedstore.sources.reading.files import arrow_input
from embedstore.sources.reading.parquet_bytes import ParquetBytes
from embedstore.sources.reading.rows import TEXT, TEXTS, Needed, Rows, chosen_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from embedstore.sources.reading.files import File


def read_parquet(path: File, columns: Mapping[str, str], needed: Needed) -> Rows:
    """Rows of a Parquet file; only the columns that are needed are read.

    `image` is a path, the encoded bytes, or a struct with `bytes` or `path` (the layout of Hugging Face data
    sets). Pictures held as bytes are read once here: equal bytes are the same picture. They are named by
    `path` where these names are relative and go one to one with the pictures, else by their hash.
    """

    def place(row: int) -> str:
        return f"{path.name}, row {row}"

    try:
        with arrow_input(path) as opened, pq.ParquetFile(opened) as file:
            schema = file.schema_arrow
            chosen = chosen_columns(schema.names, columns, needed, path.name)
            kinds = {ours: schema.field(theirs).type for ours, theirs in chosen.items()}
            inside = "image" in kinds and _may_hold_bytes(kinds["image"])
            texts = {ours: theirs for ours, theirs in chosen.items() if ours != "image" or not inside}
            done = {o: _text_column(o, file.read(columns=[t]).column(0), place) for o, t in texts.items()}
            count = int(file.metadata.num_rows)
            encoded = None
            if inside:
                done["image"], encoded = _pictures(path, file, chosen["image"], kinds["image"], place)
    except (pa.ArrowException, ValueError, MemoryError, OverflowError) as bad:
        raise SourceError("not a Parquet file that can be read", where=path.name, found=bad) from None
    return Rows(count=count, columns=done, place=place, encoded=encoded)


def _is_binary(kind: Any) -> bool:
    return bool(pt.is_binary(kind) or pt.is_large_binary(kind))


def _may_hold_bytes(kind: Any) -> bool:
    return _is_binary(kind) or bool(pt.is_struct(kind))


def _text_column(ours: str, column: Any, place: Callable[[int], str]) -> Any:
    kind = column.type
    if pt.is_dictionary(kind):
        kind = kind.value_type
    wanted = TEXTS if ours == "captions" else TEXT
    if ours == "captions":
        fits = (pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind)) and _is_text(
            kind.value_type
        )
    else:
        fits = _is_text(kind) or (pt.is_integer(kind) and ours != "caption")
    if not fits and not pt.is_null(kind):
        meant = "a list of texts" if ours == "captions" else "text"
        raise SourceError(f"column {ours!r} is not {meant}", where=place(0).partition(",")[0], found=kind)
    try:
        done = column.cast(wanted).combine_chunks()
        done.validate(full=True)
    except pa.ArrowInvalid:
        raise SourceError(f"column {ours!r} is not UTF-8", where=_bad_row(column, place)) from None
    return done


def _is_text(kind: Any) -> bool:
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind) or _is_binary(kind))


def _bad_row(column: Any, place: Callable[[int], str]) -> str:
    for row in range(len(column)):
        one = column.slice(row, 1)
        try:
            (one if pt.is_nested(one.type) else one.cast(TEXT)).validate(full=True)
        except pa.ArrowInvalid:
            return place(row)
    return place(0)


def _pictures(
    path: File, file: Any, column: str, kind: Any, place: Callable[[int], str]
) -> tuple[Any, ParquetBytes | None]:
    fields = [] if _is_binary(kind) else [kind.field(i).name for i in range(kind.num_fields)]
    if not _is_binary(kind) and not {"bytes", "path"} & set(fields):
        raise SourceError(
            f"column {column!r} holds no picture",
            where=path.name,
            found=kind,
            allowed="a path, bytes, or a struct with a field bytes or path",
        )
    names = None
    if "path" in fields:
        paths = pc.struct_field(file.read(columns=[f"{column}.path"]).column(0), "path")
        names = _text_column("image", paths, place)
    if fields and "bytes" not in fields:
        return names, None
    store = ParquetBytes(path, column)
    digests = store.scan()
    if names is not None and digests.null_count == len(digests):
        return names, None
    return (names if names is not None and _good_names(names, digests) else digests), store


def _good_names(names: Any, digests: Any) -> bool:
    if names.null_count or digests.null_count:
        return False
    unique = names.unique()
    if any(posixpath.isabs(name) or "://" in name for name in unique.to_pylist()):
        return False
    pairs = pa.table({"name": names, "digest": digests}).group_by(["name", "digest"]).aggregate([])
    return len(pairs) == len(unique) == len(digests.unique())
