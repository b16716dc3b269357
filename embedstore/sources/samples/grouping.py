"""Rows to samples: one row a caption and one row an image give the same samples.

Rows with the same `id` are one sample; without an `id` column, rows with the same `image`; without either,
every row is a sample of its own, named by its number from 0. Samples stand in the order of their first
row, captions in the order of the file. Rows of one sample may leave `label` and `split` out but must not
contradict each other; one id never means two pictures, nor one picture two ids. Empty captions are dropped
and counted, and with them the samples that are left with neither picture nor text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedstore.errors import SourceError, UsageError
from embedstore.sources.base import ROLES, Caption
from embedstore.sources.reading.rows import TEXT

if TYPE_CHECKING:
    from embedstore.shapes import IntArray
    from embedstore.sources.reading.rows import Rows

_LANGUAGE = r"^[a-z]{2,3}(-[a-z0-9]{2,8})*$"


@dataclass(frozen=True, slots=True)
class Codes:
    """A column of few values: `codes (n,)` int64 into `values`, -1 where there is none."""

    codes: IntArray
    values: tuple[str, ...]

    def __getitem__(self, index: int) -> str | None:
        code = int(self.codes[index])
        return None if code < 0 else self.values[code]


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Samples of a table without their pictures, kept as columns. n samples, m captions.

    `first_row (n,)` is the row a sample stands in first; `offsets (n+1,)` cuts the captions by sample.
    """

    ids: Any
    images: Any
    first_row: IntArray
    label: Codes
    split: Codes
    texts: Any
    offsets: IntArray
    language: Codes
    role: Codes
    category: Codes
    empty_captions: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def captions(self, index: int) -> tuple[Caption, ...]:
        """The captions of one sample, in the order of the file."""
        start, stop = int(self.offsets[index]), int(self.offsets[index + 1])
        texts = self.texts.slice(start, stop - start).to_pylist()
        return tuple(
            Caption(
                text=text,
                language=self.language[at] or "en",
                role=self.role[at] or "caption",
                category=self.category[at],
            )
            for at, text in enumerate(texts, start)
        )


def check_language(language: str) -> str:
    """A language tag in lower case, e.g. "en" or "pt-br"; `UsageError` where it is none."""
    lower = language.lower()
    if not pc.match_substring_regex(pa.scalar(lower, TEXT), _LANGUAGE).as_py():
        raise UsageError("not a language tag", found=language, allowed="e.g. en, de, pt-br")
    return lower


def group_rows(rows: Rows, *, language: str = "en") -> Samples:
    """Group cleaned rows; rows that name no language are in `language`. `SourceError` names the rows."""
    text_row, texts, empty = _flat_captions(rows)
    kept = np.arange(rows.count) if "image" in rows else np.unique(text_row)
    key = _key(rows, kept)
    sample = np.full(rows.count, -1, dtype=np.int64)
    sample[kept], values = _encode(key)
    first_row = _first(sample, kept, len(values))
    order = np.argsort(sample[text_row], kind="stable")
    text_row = text_row[order]
    languages = pc.fill_null(pc.utf8_lower(rows.text("language")), language)
    roles = pc.fill_null(rows.text("role"), "caption")
    _refuse_others(
        rows, "language", languages, pc.match_substring_regex(languages, _LANGUAGE), "e.g. en, de, pt-br"
    )
    _refuse_others(rows, "role", roles, pc.is_in(roles, pa.array(ROLES, TEXT)), ", ".join(ROLES))
    agreed = {name: _agreed(rows, name, sample, len(values)) for name in ("image", "label", "split")}
    _refuse_two_ids(rows, sample)
    image_codes, images = agreed["image"]
    return Samples(
        ids=pa.array(values, TEXT),
        images=images.take(pa.array(image_codes)) if "image" in rows else None,
        first_row=first_row,
        label=Codes(agreed["label"][0], tuple(agreed["label"][1].to_pylist())),
        split=Codes(agreed["split"][0], tuple(agreed["split"][1].to_pylist())),
        texts=texts.take(pa.array(order)),
        offsets=np.searchsorted(sample[text_row], np.arange(len(values) + 1)),
        language=_codes(languages, text_row),
        role=_codes(roles, text_row),
        category=_codes(rows.text("category"), text_row),
        empty_captions=empty,
    )


def _encode(column: Any) -> tuple[IntArray, Any]:
    # Codes in the order of first appearance, -1 for null.
    encoded = column.dictionary_encode()
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, encoded.dictionary


def _codes(column: Any, rows: IntArray) -> Codes:
    codes, values = _encode(column)
    return Codes(codes[rows], tuple(values.to_pylist()))


def _flat_captions(rows: Rows) -> tuple[IntArray, Any, int]:
    # (row of each text, texts, number of empty ones that were dropped)
    if "captions" in rows:
        lists = rows.columns["captions"]
        row, texts = pc.list_parent_indices(lists).to_numpy(), lists.flatten()
    elif "caption" in rows:
        row, texts = np.arange(rows.count), rows.columns["caption"]
    else:
        return np.zeros(0, dtype=np.int64), pa.array([], TEXT), 0
    there = pc.is_valid(texts).to_numpy(zero_copy_only=False)
    return row[there].astype(np.int64), texts.drop_null(), int(len(texts) - there.sum())


def _key(rows: Rows, kept: IntArray) -> Any:
    name = "id" if "id" in rows else "image" if "image" in rows else None
    for needed in [column for column in ("id", "image") if column in rows]:
        empty = np.flatnonzero(pc.is_null(rows.text(needed)).to_numpy(zero_copy_only=False))
        empty = empty[np.isin(empty, kept, assume_unique=True)]
        if len(empty):
            raise SourceError(f"no {needed} in this row", where=rows.place(int(empty[0])))
    if name is None:
        return pa.array(kept).cast(TEXT)
    return rows.text(name).take(pa.array(kept))


def _first(group: IntArray, rows: IntArray, count: int) -> IntArray:
    # The first of `rows` in each group; of several assignments to one place NumPy keeps the last.
    first = np.full(count, -1, dtype=np.int64)
    backwards = rows[::-1]
    first[group[backwards]] = backwards
    return first


def _agreed(rows: Rows, name: str, sample: IntArray, count: int) -> tuple[IntArray, Any]:
    # The one value that the rows of a sample agree on, as (code, values); -1 where none of them has one.
    codes, values = _encode(rows.text(name))
    said = np.flatnonzero((codes >= 0) & (sample >= 0))
    first = _first(sample, said, count)
    other = said[codes[said] != codes[first[sample[said]]]]
    if len(other):
        a, b = int(first[sample[other[0]]]), int(other[0])
        by_id = name == "image"
        raise SourceError(
            "one id stands for two pictures" if by_id else f"two rows of one sample differ in {name!r}",
            where=_both(rows, a, b),
            found=f"{values[int(codes[a])]} and {values[int(codes[b])]}",
            todo="name another column with --column id=NAME; --column id= groups by picture"
            if by_id
            else None,
        )
    return np.where(first >= 0, codes[first], -1), values


def _refuse_two_ids(rows: Rows, sample: IntArray) -> None:
    if "id" not in rows or "image" not in rows:
        return
    codes, images = _encode(rows.text("image"))
    everything = np.arange(rows.count)
    first = _first(codes, everything, len(images))
    other = everything[sample != sample[first[codes]]]
    if len(other):
        a, b = int(first[codes[other[0]]]), int(other[0])
        raise SourceError(
            "one picture has two ids",
            where=_both(rows, a, b),
            found=f"{rows.text('id')[a]} and {rows.text('id')[b]}",
            todo="where the column numbers captions: --column id= and rows are grouped by their picture",
        )


def _both(rows: Rows, a: int, b: int) -> str:
    return f"{rows.place(a)} and {rows.place(b).rpartition(', ')[2]}"


def _refuse_others(rows: Rows, name: str, column: Any, fits: Any, allowed: str) -> None:
    bad = np.flatnonzero(~fits.to_numpy(zero_copy_only=False))
    if len(bad):
        row = int(bad[0])
        raise SourceError(f"not a {name}", where=rows.place(row), found=column[row], allowed=allowed)
