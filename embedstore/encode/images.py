"""Image features: pictures are decoded by threads ahead of the model, one work unit at a time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedstore.documents import QuarantinedRow
from embedstore.encode.convert import to_stored
from embedstore.encode.unit import EncodedUnit
from embedstore.encoders import encode_all
from embedstore.errors import UnreadableImage
from embedstore.sources.pictures import thumbnail
from embedstore.store.geometry import fill_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Executor, Future

    from torch import Tensor

    from embedstore.documents import ArrayName
    from embedstore.encode.plan import PlannedSource
    from embedstore.encode.unit import Target
    from embedstore.encoders.base import ImageBatch, ImageEncoder
    from embedstore.shapes import AnyArray, Float32Array
    from embedstore.sources.base import Picture


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """One decoded row: pixels, or the reason why there are none."""

    row: int
    id: str
    pixels: Float32Array | None
    thumbnail: bytes | None
    reason: str | None


def encode_image_units(
    planned: PlannedSource,
    encoder: ImageEncoder,
    targets: Sequence[Target],
    units: list[int],
    *,
    batch_size: int,
    decoders: Executor,
    ahead: int,
    on_rows: Callable[[int], None],
    rows_of: Callable[[int], Sequence[int]] | None = None,
) -> Iterator[EncodedUnit]:
    """Yield the missing `units` of the image features of one pass in order.

    `decoders` decode and prepare at most `ahead` pictures before they are needed, so memory does not grow
    with the source. A batch never spans two units: a unit's bytes depend on its own rows only.
    `rows_of(unit)` where units are of other table rows than the headers'.
    """
    thumbnail_size = max(target.header.thumbnails for target in targets)

    def prepare(row: int) -> _Prepared:
        id_, picture = planned.picture(row)
        return _prepare(row, id_, picture, encoder, thumbnail_size)

    rows_of = rows_of or targets[0].header.unit_rows
    rows = (row for unit in units for row in rows_of(unit))
    prepared = _ahead(decoders, prepare, rows, ahead)
    for unit in units:
        yield _encode_unit(
            unit,
            rows_of(unit),
            prepared,
            encoder,
            targets,
            batch_size=batch_size,
            on_rows=on_rows,
        )


def _ahead(
    executor: Executor, work: Callable[[int], _Prepared], rows: Iterator[int], ahead: int
) -> Iterator[_Prepared]:
    """Results in order, with at most `ahead` under way."""
    waiting: deque[Future[_Prepared]] = deque()
    try:
        for row in rows:
            waiting.append(executor.submit(work, row))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _prepare(row: int, id_: str, picture: Picture, encoder: ImageEncoder, thumbnail_size: int) -> _Prepared:
    try:
        image = picture.open()
        small = thumbnail(image, thumbnail_size) if thumbnail_size else None
        return _Prepared(row=row, id=id_, pixels=encoder.prepare(image), thumbnail=small, reason=None)
    except UnreadableImage as bad:
        return _Prepared(row=row, id=id_, pixels=None, thumbnail=None, reason=bad.problem)


def _encode_unit(
    unit: int,
    rows: Sequence[int],
    prepared: Iterator[_Prepared],
    encoder: ImageEncoder,
    targets: Sequence[Target],
    *,
    batch_size: int,
    on_rows: Callable[[int], None],
) -> EncodedUnit:
    arrays: tuple[dict[ArrayName, AnyArray], ...] = tuple(
        {
            spec.name: np.full((len(rows), *spec.shape[1:]), fill_value(spec), spec.dtype)
            for spec in target.header.arrays
            if spec.name != "status"
        }
        for target in targets
    )
    quarantined: list[QuarantinedRow] = []
    thumbnails: list[bytes | None] = []
    for first in range(0, len(rows), batch_size):
        samples = [next(prepared) for _ in rows[first : first + batch_size]]
        thumbnails += [s.thumbnail for s in samples]
        good = [k for k, s in enumerate(samples) if s.pixels is not None]
        quarantined += [
            QuarantinedRow(row=s.row, id=s.id, reason=s.reason) for s in samples if s.reason is not None
        ]
        if good:
            batches = encode_all(encoder, [p for s in samples if (p := s.pixels) is not None])
            places = first + np.asarray(good)
            of = np.asarray(rows, np.int64)[places]
            for target, filled in zip(targets, arrays, strict=True):
                tensors = _tensors(batches[target.output])
                for name, values in to_stored(tensors, target.coder, rows=of).items():
                    filled[name][places] = values
        on_rows(len(samples))
    return EncodedUnit(
        unit=unit,
        arrays=arrays,
        quarantined=tuple(quarantined),
        thumbnails=tuple(thumbnails) if any(t.header.thumbnails for t in targets) else None,
    )


def _tensors(batch: ImageBatch) -> dict[ArrayName, Tensor]:
    tensors: dict[ArrayName, Tensor] = {"tokens": batch.tokens, "pooled": batch.pooled}
    return tensors if batch.prefix is None else tensors | {"prefix": batch.prefix}
