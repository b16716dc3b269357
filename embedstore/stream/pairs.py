"""Pictures with one caption each: what a contrastive fit reads, epoch by epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import UsageError
from embedstore.store.order import block_rows, epoch_order, group_rows
from embedstore.stream.ahead import READ_AHEAD_BYTES, ReadAhead, buffer_sets
from embedstore.stream.batches import ImageBuffers, ImageReader, ImageTokens, TextReader, TextTokens
from embedstore.stream.choice import CaptionTable

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from embedstore.shapes import IntArray
    from embedstore.store import Feature, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class PairBatch:
    """Pictures and one text of each: row i of one belongs to row i of the other."""

    image: ImageTokens
    text: TextTokens

    def to(self, device: torch.device) -> PairBatch:
        """The same on a device."""
        return PairBatch(image=self.image.to(device), text=self.text.to(device))


def usable_texts(store: Store, feature: Feature, *, role: str, language: str) -> npt.NDArray[np.bool_]:
    """Which texts `(m,)` have this role and language and are not quarantined.

    `UsageError` that lists the roles and languages there are, where no text has both.
    """
    table = store.texts(["role", "language"])
    wanted = np.ones(len(table), dtype=bool)
    for column, value in (("role", role), ("language", language)):
        wanted &= table[column].to_numpy() == value
    if not wanted.any():
        raise UsageError(
            f"no text has the role {role!r} in the language {language!r}",
            where=store.path.name,
            allowed=f"roles {_counted(store.plan.roles)}; languages {_counted(store.plan.languages)}",
        )
    usable: npt.NDArray[np.bool_] = wanted & (feature.status() == 0)
    return usable


class PairStream:
    """Batches of image tokens with the tokens of one caption each, in an order that is a pure function.

    `rows` are image rows, ascending (a split, a subset). Quarantined pictures, and pictures without a usable
    caption of that role and language, are left out and counted in `skipped`. An epoch has `steps` batches
    whose sizes differ by at most one and are `batch_size` at most, so every row comes once and no batch is a
    small rest. (A batch of one teaches nothing: with `batch_size` 2 and an odd number, one batch has three.)
    The order is `store.order.epoch_order` of (rows, seed, epoch); the caption is drawn by
    `CaptionTable.choose` from (seed, epoch, row). Reads ahead in a thread within `read_ahead_bytes`.
    `UsageError` where fewer than two pictures are left.
    """

    def __init__(
        self,
        store: Store,
        *,
        image: str,
        text: str,
        rows: IntArray,
        batch_size: int,
        role: str = "caption",
        language: str = "en",
        seed: int = 0,
        read_ahead_bytes: int = READ_AHEAD_BYTES,
        pin: bool = False,
    ) -> None:
        self.seed, self._read_ahead, self._pin = seed, read_ahead_bytes, pin
        self._images, self._texts = ImageReader(store[image]), TextReader(store[text])
        self.captions = CaptionTable.build(
            images=store.plan.images,
            image_of=_image_of(store),
            usable=usable_texts(store, self._texts.feature, role=role, language=language),
        )
        readable = self._images.feature.status()[rows] == 0
        captioned = self.captions.counts(rows) > 0
        self.rows = rows[readable & captioned]
        self.skipped = {
            "image quarantined": int((~readable).sum()),
            "no caption": int((readable & ~captioned).sum()),
        }
        count = len(self.rows)
        if count < 2:
            raise UsageError(
                "too few pairs to compare",
                found=f"{count} of {len(rows)} pictures; {_counted(self.skipped)}",
                allowed="two or more",
            )
        self.steps = max(1, min(-(-count // batch_size), count // 2))

    def order(self, epoch: int) -> IntArray:
        """The image rows of one epoch `(n,)`, in order."""
        size = self._images.row_bytes
        return epoch_order(
            self.rows,
            seed=self.seed,
            epoch=epoch,
            block_rows=block_rows(size),
            group_rows=group_rows(size),
        )

    def epoch(self, epoch: int) -> ReadAhead[IntArray, ImageBuffers, PairBatch]:
        """The batches of one epoch; a batch is valid until the next one is asked for."""
        largest = -(-len(self.rows) // self.steps)
        sets = buffer_sets(largest * self._images.row_bytes, self._read_ahead)
        buffers = [self._images.buffers(largest, pin=self._pin) for _ in range(sets)]

        def read(rows: IntArray, room: ImageBuffers) -> PairBatch:
            texts = self.captions.choose(rows, seed=self.seed, epoch=epoch)
            return PairBatch(image=self._images.read(rows, room), text=self._texts.read(texts))

        return ReadAhead(np.array_split(self.order(epoch), self.steps), read, buffers)


def _image_of(store: Store) -> IntArray:
    column = store.texts(["image"])["image"].fill_null(-1)
    found: IntArray = column.to_numpy().astype(np.int64)
    return found


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items()) or "none"
