"""Columns of texts cleaned as Arrow arrays: millions of captions at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from embedstore.errors import SourceError, UsageError
from embedstore.sources.reading.arrow_parts import bytes_for_text
from embedstore.sources.reading.rows import MOST_BYTES, TEXT
from embedstore.sources.samples.gathering import clean
from embedstore.sources.samples.grouping import check_language

if TYPE_CHECKING:
    from collections import Counter

_WIDE = pa.large_binary()


def clean_texts(column: Any, dropped: Counter[str], what: str, where: str) -> Any:
    """A column as trimmed `large_string`, null where a value is no text; what is left out is counted."""
    column = _flat(column, what, where)
    if pt.is_null(column.type):
        return column.cast(TEXT)
    if column.type != _WIDE:
        return column
    longest = pc.max(pc.binary_length(column)).as_py() or 0
    try:
        texts = column.cast(TEXT)
    except pa.ArrowInvalid:
        texts = None
    if texts is None or longest > MOST_BYTES or pc.any(pc.match_substring(texts, "\0")).as_py():
        # Rare: value by value, so that each that is left out is counted by its reason.
        return pa.array([clean(value, dropped, what) for value in column.to_pylist()], TEXT)
    trimmed = pc.utf8_trim_whitespace(texts)
    empty = pc.equal(trimmed, pa.scalar("", TEXT))
    if what == "captions":
        dropped["empty captions"] += pc.sum(empty).as_py() or 0
    return pc.if_else(empty, pa.scalar(None, TEXT), trimmed)


def _flat(column: Any, what: str, where: str) -> Any:
    # Texts as bytes, whole numbers as texts.
    kind = bytes_for_text(column.type)
    if what != "captions" and (pt.is_integer(kind) or pt.is_floating(kind)):
        try:
            return column.cast(pa.int64()).cast(TEXT).combine_chunks()
        except pa.ArrowInvalid:
            raise SourceError(f"{what} that are no whole numbers", where=where, found=column.type) from None
    if not pt.is_null(kind) and kind != _WIDE and not pt.is_binary(kind):
        raise SourceError(f"{what} that are no texts", where=where, found=column.type)
    try:
        column = column.cast(kind if pt.is_null(kind) else _WIDE).combine_chunks()
        column.validate(full=True)
    except pa.ArrowInvalid as bad:
        raise SourceError("a damaged column", where=where, found=str(bad)[:200]) from None
    return column


def clean_languages(column: Any, default: str, dropped: Counter[str], where: str) -> Any:
    """A column of language tags as `large_string`; `default` where there is none."""
    texts = pc.utf8_lower(clean_texts(column, dropped, "languages", where))
    coded = texts.dictionary_encode()
    tags = []
    counts = {one["values"]: one["counts"] for one in pc.value_counts(texts).to_pylist()}
    for said in coded.dictionary.to_pylist():
        try:
            tags.append(check_language(said))
        except UsageError:
            dropped["languages that are no tag, e.g. en"] += counts[said]
            tags.append(default)
    return pc.fill_null(pa.array(tags, TEXT).take(coded.indices), default)
