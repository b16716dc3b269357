"""Image features: pictures are decoded ahead of the model, batches are computed one work unit at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import tee
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from embedstore.documents import QuarantinedRow
from embedstore.encode.collecting import Collector
from embedstore.encode.convert import to_stored
from embedstore.encode.unit import EncodedUnit
from embedstore.encoders import encode_all
from embedstore.store.geometry import fill_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import Tensor

    from embedstore.documents import ArrayName
    from embedstore.encode.decoding import Decoders, Prepared
    from embedstore.encode.plan import PlannedSource
    from embedstore.encode.unit import Target
    from embedstore.encoders.base import ImageBatch, ImageEncoder
    from embedstore.shapes import AnyArray, IntArray

SETTLING = 1 / 8
"""Share of a batch's time that a model on the processor waits for its decoders to stand still, at most."""


def encode_image_units(
    planned: PlannedSource,
    encoder: ImageEncoder,
    targets: Sequence[Target],
    units: Iterable[int],
    *,
    batch_size: int,
    decoders: Decoders,
    on_rows: Callable[[int], None],
    rows_of: Callable[[int], Sequence[int]] | None = None,
) -> Iterator[EncodedUnit]:
    """Yield the missing `units` of the image features of one pass in order.

    `decoders` decode and prepare two batches before they are needed, or fewer pictures where these would
    take much memory, so memory does not grow with the source. A batch never spans two units: a unit's bytes
    depend on its own rows only. `rows_of(unit)` where units are of other table rows than the headers'.
    """
    rows_of = rows_of or targets[0].header.unit_rows
    units, coming = tee(units)
    prepared = decoders.prepared(
        planned,
        encoder,
        (row for unit in coming for row in rows_of(unit)),
        thumbnails=max(target.header.thumbnails for target in targets),
        ahead=2 * batch_size + decoders.count,
    )
    with Collector() as collector:
        begun: _Unit | None = None
        took = 0.0
        for number in units:
            unit = _Unit(number, rows_of(number), targets)
            for first in range(0, len(unit.rows), batch_size):
                samples = [next(prepared) for _ in unit.rows[first : first + batch_size]]
                if not collector.behind:
                    decoders.settle(SETTLING * took)
                began = perf_counter()
                steps = unit.take(first, samples, encoder, collector)
                took = perf_counter() - began
                on_rows(len(samples))
                if begun is not None:  # never on a CPU; a GPU has its next batch by now
                    collector.wait_for(steps)
                    yield begun.encoded()
                    begun = None
            if collector.behind:
                begun = unit
            else:
                yield unit.encoded()
        if begun is not None:
            collector.wait_for(0)
            yield begun.encoded()


@dataclass
class _Unit:
    """One work unit on its way."""

    unit: int
    rows: Sequence[int]
    targets: Sequence[Target]
    arrays: tuple[dict[ArrayName, AnyArray], ...] = ()
    quarantined: list[QuarantinedRow] = field(default_factory=list)
    thumbnails: list[bytes | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.arrays = tuple(
            {
                spec.name: np.full((len(self.rows), *spec.shape[1:]), fill_value(spec), spec.dtype)
                for spec in target.header.arrays
                if spec.name != "status"
            }
            for target in self.targets
        )

    def take(
        self, first: int, samples: Sequence[Prepared], encoder: ImageEncoder, collector: Collector
    ) -> int:
        """Run the model on the pictures of places `first` and after, and begin to take in what it gives.

        Returns how many steps the collector was given: none where no picture can be read.
        """
        self.thumbnails += [s.thumbnail for s in samples]
        self.quarantined += [
            QuarantinedRow(row=s.row, id=s.id, reason=s.reason) for s in samples if s.reason is not None
        ]
        good = [k for k, s in enumerate(samples) if s.pixels is not None]
        pixels = [p for s in samples if (p := s.pixels) is not None]
        if not pixels:
            return 0
        batches, places = encode_all(encoder, pixels), first + np.asarray(good, np.int64)
        collector.put(lambda: self._store(batches, places), batches[0].tokens.device)
        return 1

    def _store(self, batches: Sequence[ImageBatch], places: IntArray) -> None:
        of = np.asarray(self.rows, np.int64)[places]
        for target, filled in zip(self.targets, self.arrays, strict=True):
            tensors = _tensors(batches[target.output])
            for name, values in to_stored(tensors, target.coder, rows=of).items():
                filled[name][places] = values

    def encoded(self) -> EncodedUnit:
        """The whole unit, once every step is done."""
        kept = any(t.header.thumbnails for t in self.targets)
        return EncodedUnit(
            unit=self.unit,
            arrays=self.arrays,
            quarantined=tuple(self.quarantined),
            thumbnails=tuple(self.thumbnails) if kept else None,
        )


def _tensors(batch: ImageBatch) -> dict[ArrayName, Tensor]:
    tensors: dict[ArrayName, Tensor] = {"tokens": batch.tokens, "pooled": batch.pooled}
    return tensors if batch.prefix is None else tensors | {"prefix": batch.prefix}
