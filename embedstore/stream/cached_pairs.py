"""The batches of a `PairStream` out of device memory: the same rows, captions and values, and no reading."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Literal, Self, TypeAlias

from embedstore.errors import UsageError
from embedstore.stream.cache import DeviceCache, cache_bytes, refuse_too_large, room_for
from embedstore.stream.pairs import PairBatch
from embedstore.stream.share import rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from embedstore.shapes import IntArray
    from embedstore.store import EpochPlan
    from embedstore.stream.micro import Micro
    from embedstore.stream.pairs import PairStream

CacheChoice: TypeAlias = Literal["auto", "yes", "no"]


def pairs_on_device(
    stream: PairStream, device: torch.device, choice: CacheChoice = "auto", *, epochs: int = 1
) -> PairStream | CachedPairs:
    """The stream out of the device's memory, or itself.

    `yes`: `UsageError` where its tokens do not fit. `auto`: on a GPU where they fit, else `no`. Of a stream
    with a `share` only what this share meets in so many `epochs` is held.
    """
    if choice not in ("auto", "yes", "no"):
        raise UsageError("bad choice of a device cache", found=choice, allowed="auto, yes, no")
    if choice == "no" or (choice == "auto" and device.type != "cuda"):
        return stream
    image, text = stream.features
    rows = stream.rows
    if stream.share is not None:
        rows = rows_of(stream.plan(epoch) for epoch in range(epochs))
    needed = cache_bytes(image, rows) + cache_bytes(text, stream.texts_of(rows))
    if choice == "auto" and needed > room_for(device):
        return stream
    refuse_too_large(needed, device, where=f"{image.name} and {text.name}")
    return CachedPairs(stream, device, rows)


class CachedPairs:
    """Reads pictures and all their usable captions into device memory once; then epochs as `stream` has them.

    `rows`: the pictures that these epochs bring, ascending; none: all of the stream. Every batch is on the
    device, decoded, and equal to the bit to what `stream` gives after `to(device)`.
    """

    def __init__(self, stream: PairStream, device: torch.device, rows: IntArray | None = None) -> None:
        self._stream, held = stream, stream.rows if rows is None else rows
        image, text = stream.features
        self._images = DeviceCache(image, device, rows=held, share=1.0)
        self._texts = DeviceCache(text, device, rows=stream.texts_of(held), share=1.0)

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return self._stream.steps

    @property
    def rows(self) -> IntArray:
        """Image rows of an epoch, ascending."""
        return self._stream.rows

    @property
    def epoch_rows(self) -> int:
        """Rows of a whole epoch."""
        return self._stream.epoch_rows

    @property
    def skipped(self) -> dict[str, int]:
        """Images left out, by reason."""
        return self._stream.skipped

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return self._images.nbytes + self._texts.nbytes

    def plan(self, epoch: int) -> EpochPlan:
        """The rows and batches of an epoch, of this share."""
        return self._stream.plan(epoch)

    def whole_plan(self, epoch: int) -> EpochPlan:
        """The same of all shares together."""
        return self._stream.whole_plan(epoch)

    def epoch(self, epoch: int, micro: Micro | None = None, skip: int = 0) -> CachedBatches:
        """The batches of one epoch after its first `skip`, or micro-batches as a `PairStream` has them."""
        return CachedBatches(self._batches(epoch, micro, skip))

    def _batches(self, epoch: int, micro: Micro | None, skip: int) -> Iterator[PairBatch]:
        plan = self.plan(epoch).after(skip)
        plan = plan if micro is None else micro.cut(plan)
        passes = 1 if micro is None else micro.passes
        for first, last in pairwise(plan.groups.tolist()):
            for low, high in list(pairwise(plan.batches[first : last + 1].tolist())) * passes:
                rows = plan.rows[low:high]
                texts, owner = self._stream.chosen(rows, epoch)
                yield PairBatch(image=self._images.images(rows), text=self._texts.texts(texts), owner=owner)


class CachedBatches:
    """The batches of an epoch; nothing is waited for, and nothing has to be closed."""

    waited = 0.0

    def __init__(self, batches: Iterator[PairBatch]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[PairBatch]:
        return self._batches

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._batches = iter(())
