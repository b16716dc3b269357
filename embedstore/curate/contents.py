"""What makes two rows equal in content, as far as a store knows it: without any embedding distance."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedstore.curate.vectors import BLOCK, UNREADABLE, pooled_feature
from embedstore.store.selection import readable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from embedstore.documents import Table
    from embedstore.shapes import IntArray
    from embedstore.store import Feature, Store

_DIGEST = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """Of `rows (n,)` which content each has `(n,)` int64, what was compared, and rows without any."""

    rows: IntArray
    group: IntArray
    compared: str
    feature: Feature | None
    unusable: dict[int, str]


def contents(
    store: Store,
    table: Table,
    rows: IntArray,
    *,
    feature: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Contents:
    """Rows with equal content have equal numbers. By digests of 128 bits (BLAKE2b), 16 bytes a row.

    Texts: their characters. Images: the stored thumbnail, which is a function of the picture alone, and the
    size of the picture's file where it is known; where the store keeps no thumbnails, or `feature` is named,
    the bytes of the pooled embedding in its place.
    """
    digests = np.zeros((len(rows), 2), np.uint64)
    usable = np.zeros(len(rows), bool)
    source = None
    values: Iterator[bytes | None]
    if table == "texts" and feature is None:
        compared, values = "text", _texts(store, rows)
    elif table == "images" and feature is None and _has_thumbnails(store, rows):
        compared, values = "thumbnail", _pictures(store, rows, store.thumbnails)
    else:
        source = pooled_feature(store, feature, table)
        compared = "embedding"
        values = _pictures(store, rows, _Embeddings(source)) if table == "images" else _plain(source, rows)
    for at, value in enumerate(values):
        if value is not None:
            digests[at] = np.frombuffer(hashlib.blake2b(value, digest_size=_DIGEST).digest(), np.uint64)
            usable[at] = True
        if on_progress is not None and (at % BLOCK == 0 or at + 1 == len(rows)):
            on_progress(at + 1, len(rows))
    _, group = np.unique(digests[usable], axis=0, return_inverse=True)
    return Contents(
        rows=rows[usable],
        group=group.reshape(-1),
        compared=compared,
        feature=source,
        unusable=dict.fromkeys(rows[~usable].tolist(), UNREADABLE),
    )


def _has_thumbnails(store: Store, rows: IntArray) -> bool:
    """Whether every part of the store keeps them: two kinds of content can never be equal."""
    for part in store.parts:
        if part.plan.images and not any(
            part.header(name).thumbnails and part.complete(name) for name in part.features()
        ):
            return False
    return len(rows) > 0


def _texts(store: Store, rows: IntArray) -> Iterator[bytes | None]:
    column = store.texts(["text"])["text"]
    for first in range(0, len(rows), BLOCK):
        for text in column.take(rows[first : first + BLOCK]).to_pylist():
            yield text.encode()


def _pictures(
    store: Store, rows: IntArray, read: Callable[[IntArray], list[bytes | None]]
) -> Iterator[bytes | None]:
    """The size of the picture's file, then what `read` gives of it."""
    sizes = store.images(["nbytes"])["nbytes"].fill_null(-1).to_numpy()
    for first in range(0, len(rows), BLOCK):
        part = rows[first : first + BLOCK]
        for size, value in zip(sizes[part].tolist(), read(part), strict=True):
            yield None if value is None else b"%d:" % size + value


def _plain(feature: Feature, rows: IntArray) -> Iterator[bytes | None]:
    read = _Embeddings(feature)
    for first in range(0, len(rows), BLOCK):
        yield from read(rows[first : first + BLOCK])


class _Embeddings:
    """The bytes of pooled embeddings, none of rows that could not be read."""

    def __init__(self, feature: Feature) -> None:
        self._feature, self._good = feature, readable(feature)

    def __call__(self, rows: IntArray) -> list[bytes | None]:
        good = self._good[rows]
        values = iter(self._feature.decoded("pooled", rows[good]))
        return [next(values).tobytes() if usable else None for usable in good]
