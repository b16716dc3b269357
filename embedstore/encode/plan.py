"""The plan: row order, tables and identity of a store, fixed before any model runs."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from embedstore.documents import Plan
from embedstore.errors import SourceError
from embedstore.store import create_store
from embedstore.store.tables import SCHEMAS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from embedstore.shapes import IntArray
    from embedstore.sources.base import Picture, Sample, Source
    from embedstore.store import ImageRow, MaskRow, TextRow

_BATCH_ROWS = {"images": 8192, "texts": 8192, "masks": 256}


@dataclass(frozen=True, kw_only=True)
class PlannedSource:
    """A source in the order of its plan. `picture_at[r]` is the source index of image row r, int64 `(n,)`."""

    source: Source
    plan: Plan
    order: IntArray
    picture_at: IntArray

    def samples(self) -> Iterator[Sample]:
        """The samples in plan order."""
        return (self.source[int(i)] for i in self.order)

    def rows(self) -> Iterator[tuple[int | None, Sample]]:
        """Image row (none where a sample has no picture) and sample, in plan order."""
        row = 0
        for sample in self.samples():
            if sample.picture is None:
                yield None, sample
            else:
                yield row, sample
                row += 1

    def picture(self, row: int) -> tuple[str, Picture]:
        """Id and picture of one row of the images table."""
        sample = self.source[int(self.picture_at[row])]
        if sample.picture is None:
            raise SourceError("the source changed while it was read", where=sample.id)
        return sample.id, sample.picture

    def write(self, store: Path) -> bool:
        """Make the store's tables and plan, or compare with the plan that is there; whether it was made."""
        return create_store(
            store,
            self.plan,
            images=_batches("images", self.image_rows()),
            texts=_batches("texts", self.text_rows()),
            masks=_batches("masks", self.mask_rows()),
        )

    def image_rows(self) -> Iterator[ImageRow]:
        """The rows of the images table."""
        for row, sample in self.rows():
            if row is not None and sample.picture is not None:
                yield {
                    "id": sample.id,
                    "picture": sample.picture.ref,
                    "nbytes": sample.picture.nbytes,
                    "label": sample.label,
                    "split": sample.split,
                }

    def text_rows(self) -> Iterator[TextRow]:
        """The rows of the texts table: captions of one image stand together."""
        for row, sample in self.rows():
            for k, caption in enumerate(sample.captions):
                yield {
                    "id": f"{sample.id}#{k}",
                    "image": row,
                    "text": caption.text,
                    "language": caption.language,
                    "role": caption.role,
                    "category": caption.category,
                }

    def mask_rows(self) -> Iterator[MaskRow]:
        """The rows of the masks table, PNG of 8-bit class ids."""
        from PIL import Image

        for row, sample in self.rows():
            if row is not None and sample.mask is not None:
                png = io.BytesIO()
                Image.fromarray(sample.mask.open()).save(png, format="PNG", optimize=False)
                yield {"image": row, "png": png.getvalue()}


def _batches(table: str, rows: Iterator[Mapping[str, Any]]) -> Iterator[pa.Table]:
    while batch := list(islice(rows, _BATCH_ROWS[table])):
        yield pa.Table.from_pylist(batch, schema=SCHEMAS[table])


@dataclass
class _Counts:
    images: int = 0
    texts: int = 0
    masks: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    roles: Counter[str] = field(default_factory=Counter)


def plan_source(source: Source, *, seed: int = 0, limit: int | None = None) -> PlannedSource:
    """Fix the order of `source` and its identity; opens no picture.

    Sources with random access are put in an order permuted by `seed`: a folder per class would otherwise
    fill a block, and later a batch, with one class. `limit` takes the first samples of that order.
    Raises `SourceError` where two samples share an id or there is nothing to encode.
    """
    order = np.arange(len(source), dtype=np.int64)
    if source.shuffled:
        order = np.random.Generator(np.random.Philox(seed)).permutation(order)
    order = order[:limit]
    counts, digest, picture_at = _read_identity(source, order)
    if not len(order):
        raise SourceError("the source has no samples", found=dict(source.identity))
    plan = Plan(
        source=dict(source.identity),
        source_sha256=digest,
        order="shuffled" if source.shuffled else "source",
        seed=seed,
        limit=limit,
        images=counts.images,
        texts=counts.texts,
        classes=source.classes,
        splits=dict(sorted(counts.splits.items())),
        languages=dict(sorted(counts.languages.items())),
        roles=dict(sorted(counts.roles.items())),
        masks=counts.masks > 0,
    )
    return PlannedSource(source=source, plan=plan, order=order, picture_at=picture_at)


def _read_identity(source: Source, order: IntArray) -> tuple[_Counts, str, IntArray]:
    """Count everything and hash what decides the tables, in row order."""
    counts, digest, seen = _Counts(), hashlib.sha256(), set[str]()
    picture_at = np.empty(len(order), np.int64)
    for index in order:
        sample = source[int(index)]
        if sample.id in seen:
            raise SourceError("two samples share an id", found=sample.id, todo="give every sample its own id")
        seen.add(sample.id)
        if sample.picture is not None:
            picture_at[counts.images] = index
            counts.images += 1
            if sample.split is not None:
                counts.splits[sample.split] += 1
        counts.texts += len(sample.captions)
        counts.masks += sample.mask is not None
        counts.languages.update(c.language for c in sample.captions)
        counts.roles.update(c.role for c in sample.captions)
        digest.update(_identity_of(sample))
    return counts, digest.hexdigest(), picture_at[: counts.images]


def _identity_of(sample: Sample) -> bytes:
    picture = sample.picture
    captions = [[c.text, c.language, c.role, c.category] for c in sample.captions]
    described = [
        sample.id,
        None if picture is None else [picture.ref, picture.nbytes],
        sample.label,
        sample.split,
        sample.mask is not None,
        captions,
    ]
    return (
        json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        + b"\n"
    )
