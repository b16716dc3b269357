"""Pictures with one caption each, or several: what a contrastive fit reads, epoch by epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import UsageError
from embedstore.store.selection import Bools, readable, texts_with
from embedstore.stream.batches import ImageBuffers, ImageReader, ImageTokens, TextReader, TextTokens
from embedstore.stream.choice import CaptionTable
from embedstore.stream.groups import BUFFER_MB, GroupStream, Unit

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from embedstore.shapes import IntArray
    from embedstore.store import Feature, Store
    from embedstore.store.mix import MixedRows
    from embedstore.store.order import Shuffle
    from embedstore.stream.share import Share


@dataclass(frozen=True, slots=True, kw_only=True)
class PairBatch:
    """Pictures and texts of theirs: text j belongs to picture `owner[j]`, in ascending order.

    Without `owner (m,)` int64, on the host, there is one text of each and row i belongs to row i.
    """

    image: ImageTokens
    text: TextTokens
    owner: IntArray | None = None

    def to(self, device: torch.device) -> PairBatch:
        """The same on a device."""
        return PairBatch(image=self.image.to(device), text=self.text.to(device), owner=self.owner)


def usable_texts(store: Store, feature: Feature, *, role: str, language: str) -> Bools:
    """Which texts `(m,)` have this role and language and a token that could be read.

    `UsageError` that lists the roles and languages there are, where no text has both.
    """
    return texts_with(store, role=role, language=language) & readable(feature)


@dataclass(slots=True)
class PairBuffers:
    """Room for a unit of pictures and for the captions that it takes, which grows where they need more."""

    images: ImageBuffers
    tokens: Tensor


class PairStream(GroupStream[PairBuffers, PairBatch]):
    """Batches of image tokens with the tokens of one caption each, in an order that is a pure function.

    With `captions` above 1 a picture brings so many different ones, or all where it has fewer.
    `pooled_texts`: the pooled embedding of each text in place of its tokens, as its one token.

    `rows` are image rows, ascending (a split, a subset); `texts (m,)` says which captions count, none: all.
    Quarantined pictures, and pictures without a usable caption of that role and language, are left out and
    counted in `skipped`. An epoch has `steps` batches whose sizes differ by at most one and are `batch_size`
    at most, so every row comes once and no batch is a small rest. (A batch of one teaches nothing: with
    `batch_size` 2 and an odd number, one batch has three.) With a `mix`, of which `rows` are then those of
    all parts, an epoch and each batch have its shares, and an epoch is as long as they allow.
    The order is `store.order.epoch_plan` of (rows, seed, epoch, rank, world); captions are drawn by a
    `CaptionTable` from (seed, epoch, row). With a `share` the batches are the parts of these that one of
    several processes takes; `rows` and `texts` are still those of all. Reads groups of blocks ahead within
    `buffer_mb`.
    `UsageError` where fewer than two pictures a rank are left.
    """

    def __init__(
        self,
        store: Store,
        *,
        image: str,
        text: str,
        pooled_texts: bool = False,
        rows: IntArray,
        batch_size: int,
        role: str = "caption",
        language: str = "en",
        captions: int = 1,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        shuffle: Shuffle = "blocks",
        share: Share | None = None,
        texts: Bools | None = None,
        mix: MixedRows | None = None,
        buffer_mb: float = BUFFER_MB,
        threads: int | None = None,
        pin: bool = False,
        direct_io: bool | None = None,
    ) -> None:
        if captions < 1:
            raise UsageError("a picture needs a caption", found=f"captions {captions}", allowed="1 or more")
        self._pin, self.several = pin, captions
        words = store[text].only_pooled() if pooled_texts else store[text]
        self._images, self._texts = ImageReader(store[image]), TextReader(words)
        usable = usable_texts(store, self._texts.feature, role=role, language=language)
        self.captions = CaptionTable.build(
            images=store.plan.images,
            image_of=_image_of(store),
            usable=usable if texts is None else usable & texts,
        )
        good = readable(self._images.feature)[rows]
        captioned = self.captions.counts(rows) > 0
        kept = rows[good & captioned]
        self.skipped = {
            "image quarantined": int((~good).sum()),
            "no caption": int((good & ~captioned).sum()),
        }
        mixed = None if mix is None else mix.within(kept)
        count = len(kept) if mixed is None else sum(mixed.counts)
        if count < 2 * world:
            raise UsageError(
                "too few pairs to compare",
                found=f"{count} of {len(rows)} pictures; {_counted(self.skipped)}",
                allowed="two or more on each rank",
            )
        if mixed is not None and not min(mixed.counts):
            raise UsageError(
                f"part {mixed.counts.index(0) + 1} of {len(mixed.counts)} of the mix gives no epoch a row",
                found=f"{count} rows an epoch, shares {', '.join(f'{float(s):g}' for s in mixed.shares)}",
                todo="raise its share",
            )
        each = np.minimum(self.captions.counts(kept), captions).mean()
        self._tokens = float(self._texts.lengths(self.captions.texts).mean() * each)
        size, first = self._images.row_bytes, self._images.feature.array(self._images.names[0])
        super().__init__(
            rows=kept,
            batch_size=batch_size,
            row_bytes=size + self._tokens * self._texts.place_bytes,
            place_bytes=size,
            chunk=first.spec.chunk,
            whole_chunks=first.whole_chunks,
            least=2,
            seed=seed,
            rank=rank,
            world=world,
            shuffle=shuffle,
            share=share,
            mix=mixed,
            buffer_mb=buffer_mb,
            threads=threads,
            direct_io=direct_io,
        )

    @property
    def features(self) -> tuple[Feature, Feature]:
        """The image and the text feature."""
        return self._images.feature, self._texts.feature

    @property
    def texts(self) -> IntArray:
        """Every text row that an epoch may bring, ascending."""
        return self.texts_of(self.rows)

    def texts_of(self, rows: IntArray) -> IntArray:
        """Every text row that an epoch may bring with these pictures, ascending."""
        counts = self.captions.counts(rows)
        first = np.repeat(self.captions.starts[rows] - np.cumsum(counts) + counts, counts)
        found: IntArray = np.sort(self.captions.texts[first + np.arange(len(first))])
        return found

    def _room(self, rows: int) -> PairBuffers:
        tokens = self._texts.buffers(int(rows * self._tokens * 1.1) + 1, pin=self._pin)
        return PairBuffers(self._images.buffers(rows, pin=self._pin), tokens)

    def _holds(self, room: PairBuffers, rows: int) -> bool:
        return all(len(buffer) >= rows for buffer in room.images.values())

    def chosen(self, rows: IntArray, epoch: int) -> tuple[IntArray, IntArray | None]:
        """The text rows that an epoch takes for these pictures; where it takes several, whose each is."""
        if self.several == 1:
            return self.captions.choose(rows, seed=self.seed, epoch=epoch), None
        texts, counts = self.captions.choose_several(rows, most=self.several, seed=self.seed, epoch=epoch)
        return texts, np.repeat(np.arange(len(rows)), counts)

    def _advise(self, unit: Unit, epoch: int) -> None:
        self._images.advise(unit.rows, direct_io=self.direct_io)
        self._texts.advise(self.chosen(unit.rows, epoch)[0])

    def _read(self, unit: Unit, room: PairBuffers, epoch: int) -> list[PairBatch]:
        texts, owner = self.chosen(unit.rows, epoch)
        offsets = self._texts.offsets(texts)
        if len(room.tokens) < offsets[-1]:
            room.tokens = self._texts.buffers(int(offsets[-1]), pin=self._pin)
        self._reader.run(
            self._images.tasks(unit.rows, room.images, direct_io=self.direct_io)
            + self._texts.tasks(texts, offsets, room.tokens)
        )
        found = []
        for low, high in unit.batches:
            first, last = (low, high) if owner is None else np.searchsorted(owner, (low, high)).tolist()
            found.append(
                PairBatch(
                    image=self._images.view(unit.rows[low:high], room.images, low),
                    text=self._texts.view(texts[first:last], offsets[first : last + 1], room.tokens),
                    owner=None if owner is None else owner[first:last] - low,
                )
            )
        return found


def _image_of(store: Store) -> IntArray:
    column = store.texts(["image"])["image"].fill_null(-1)
    found: IntArray = column.to_numpy().astype(np.int64)
    return found


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items()) or "none"
