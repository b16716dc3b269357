"""Tokens of one feature for a training loop: a stream of batches, and a data set for a `DataLoader`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch.utils.data import Dataset

from embedstore.errors import UsageError
from embedstore.store import open_store
from embedstore.store.order import Done
from embedstore.stream.batches import ImageReader, ImageTokens, TextReader, TextTokens
from embedstore.stream.groups import BUFFER_MB, GroupStream, Unit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from embedstore.shapes import IntArray
    from embedstore.store import Feature
    from embedstore.store.order import Shuffle
    from embedstore.store.reads.blocks import GroupReader
    from embedstore.stream.batches import ImageBuffers

Item: TypeAlias = "dict[str, Tensor]"
Room: TypeAlias = "ImageBuffers"


class TokenStream(GroupStream["Room", "ImageTokens | TextTokens"]):
    """Batches of the tokens of one feature, epoch after epoch: `ImageTokens` or packed `TextTokens`.

    `for batch in stream` reads one epoch; `set_epoch` says which, and at its end the next one is set. `rows`
    ascend, all by default; quarantined rows are left out. `state_dict` is a few numbers, from which a stream
    of another rank, world or batch size goes on in the same epoch: no row is missed and none comes twice,
    where every rank had taken equally many batches. Options as in `GroupStream`. Raises `UsageError`.
    """

    def __init__(
        self,
        feature: Feature,
        *,
        batch_size: int,
        rows: IntArray | None = None,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        shuffle: Shuffle = "blocks",
        buffer_mb: float = BUFFER_MB,
        threads: int | None = None,
        pin: bool = False,
        direct_io: bool | None = None,
    ) -> None:
        kept = good_rows(feature, rows)
        self._pin, self._epoch, self._taken = pin, 0, 0
        self._done: tuple[Done, ...] = ()
        self._lane: _Images | _Texts = (
            _Images(feature) if feature.table == "images" else _Texts(feature, kept)
        )
        size = self._lane.row_bytes
        super().__init__(
            rows=kept,
            batch_size=batch_size,
            row_bytes=size,
            place_bytes=int(size),
            chunk=self._lane.chunk,
            whole_chunks=self._lane.whole_chunks,
            seed=seed,
            rank=rank,
            world=world,
            shuffle=shuffle,
            buffer_mb=buffer_mb,
            threads=threads,
            direct_io=direct_io,
        )

    def __len__(self) -> int:
        return self.steps

    def set_epoch(self, epoch: int) -> None:
        """Which epoch is read next, from its beginning."""
        self._epoch, self._done, self._taken = epoch, (), 0

    def __iter__(self) -> Iterator[ImageTokens | TextTokens]:
        taken, self._done, self._taken = self._taken, self._parts(), 0
        if taken and not self.plan(self._epoch, self._done).steps:
            # The last loop took the last batch and stopped before it could see the end.
            self.set_epoch(self._epoch + 1)
        with self.epoch(self._epoch, self._done) as batches:
            for batch in batches:
                self._taken += 1
                yield batch
        self.set_epoch(self._epoch + 1)

    def _parts(self) -> tuple[Done, ...]:
        now = Done(world=self.world, batch=self.batch_size, steps=self._taken)
        return (*self._done, now) if self._taken else self._done

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands: all batches handed out so far count as read."""
        done = [[d.world, d.batch, d.steps] for d in self._parts()]
        return {"seed": self.seed, "epoch": self._epoch, "done": done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another stream of the same rows stood; `UsageError` where its seed was another."""
        if state["seed"] != self.seed:
            raise UsageError("the state is of another seed", found=state["seed"], allowed=str(self.seed))
        self.set_epoch(int(state["epoch"]))
        self._done = tuple(Done(world=w, batch=b, steps=s) for w, b, s in state["done"])

    def _room(self, rows: int) -> Room:
        return self._lane.room(rows, pin=self._pin)

    def _holds(self, room: Room, rows: int) -> bool:
        return self._lane.holds(room, rows)

    def _advise(self, unit: Unit, epoch: int) -> None:  # noqa: ARG002 - the rows alone decide
        self._lane.advise(unit, direct_io=self.direct_io)

    def _read(
        self,
        unit: Unit,
        room: Room,
        epoch: int,  # noqa: ARG002 - the rows alone decide
    ) -> list[ImageTokens | TextTokens]:
        return self._lane.read(unit, room, self._reader, direct_io=self.direct_io)


class _Images:
    """How a stream reads pictures."""

    def __init__(self, feature: Feature) -> None:
        self.reader = ImageReader(feature)
        self.row_bytes = float(self.reader.row_bytes)
        first = feature.array(self.reader.names[0])
        self.chunk, self.whole_chunks = first.spec.chunk, first.whole_chunks

    def room(self, rows: int, *, pin: bool) -> Room:
        return self.reader.buffers(rows, pin=pin)

    def holds(self, room: Room, rows: int) -> bool:
        return all(len(buffer) >= rows for buffer in room.values())

    def advise(self, unit: Unit, *, direct_io: bool) -> None:
        self.reader.advise(unit.rows, direct_io=direct_io)

    def read(
        self, unit: Unit, room: Room, threads: GroupReader, *, direct_io: bool
    ) -> list[ImageTokens | TextTokens]:
        threads.run(self.reader.tasks(unit.rows, room, direct_io=direct_io))
        return [self.reader.view(unit.rows[low:high], room, low) for low, high in unit.batches]


class _Texts:
    """How a stream reads texts; its room grows where a unit has more tokens than most."""

    def __init__(self, feature: Feature, rows: IntArray) -> None:
        self.reader, self.chunk, self.whole_chunks = TextReader(feature), 1, False
        self._tokens = float(self.reader.lengths(rows).mean()) if len(rows) else 1.0
        self.row_bytes = self._tokens * self.reader.place_bytes

    def room(self, rows: int, *, pin: bool) -> Room:
        return {"tokens": self.reader.buffers(int(rows * self._tokens * 1.1) + 1, pin=pin)}

    def holds(self, room: Room, rows: int) -> bool:
        return len(room["tokens"]) >= rows * self._tokens

    def advise(self, unit: Unit, *, direct_io: bool) -> None:  # noqa: ARG002 - texts are too small to gain
        self.reader.advise(unit.rows)

    def read(
        self,
        unit: Unit,
        room: Room,
        threads: GroupReader,
        *,
        direct_io: bool,  # noqa: ARG002 - texts are too small to gain
    ) -> list[ImageTokens | TextTokens]:
        offsets = self.reader.offsets(unit.rows)
        if len(room["tokens"]) < offsets[-1]:
            room["tokens"] = self.reader.buffers(int(offsets[-1]), pin=room["tokens"].is_pinned())
        threads.run(self.reader.tasks(unit.rows, offsets, room["tokens"]))
        return [
            self.reader.view(unit.rows[low:high], offsets[low : high + 1], room["tokens"])
            for low, high in unit.batches
        ]


def good_rows(feature: Feature, rows: IntArray | None) -> IntArray:
    """Rows that are not quarantined, of those given, which must ascend, or of all; `UsageError`."""
    chosen = np.arange(feature.rows, dtype=np.int64) if rows is None else np.asarray(rows, np.int64)
    inside = not len(chosen) or (chosen[0] >= 0 and chosen[-1] < feature.rows)
    if not inside or (np.diff(chosen) <= 0).any():
        raise UsageError(
            "the rows of a stream must ascend", where=feature.name, allowed=f"0 to {feature.rows - 1}"
        )
    good: IntArray = chosen[feature.status()[chosen] == 0]
    return good


class TokenDataset(Dataset[Item]):
    """A map-style data set over one feature, for a `DataLoader`: item i is row `rows[i]`.

    An item is a dict of decoded tensors: `row`; of pictures `tokens (t, d)` with `prefix (p, d)`, or
    `pooled (w,)` where that has no CLS, and `weights (t,)` where tokens stand for unequal shares; of texts
    `tokens (l, d)`. A `DataLoader` asks for a whole batch at once; give it
    `collate_fn=TokenDataset.collate`, which packs texts. Safe under fork and spawn: each process opens
    the store for itself. Quarantined rows are left out.
    """

    def __init__(self, store: str | Path, feature: str, *, rows: IntArray | None = None) -> None:
        self._place, self._name = str(store), feature
        self._opened: tuple[int, ImageReader | TextReader] | None = None
        self.rows = good_rows(self._reader().feature, rows)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def _reader(self) -> ImageReader | TextReader:
        if self._opened is None or self._opened[0] != os.getpid():
            feature = open_store(self._place)[self._name]
            reader = ImageReader(feature) if feature.table == "images" else TextReader(feature)
            self._opened = os.getpid(), reader
        return self._opened[1]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Several items with one look at the store; a `DataLoader` calls this."""
        rows, reader = self.rows[np.asarray(indices, np.int64)], self._reader()
        host = torch.device("cpu")
        if isinstance(reader, TextReader):
            texts = reader.read(rows).to(host)
            parts = torch.split(texts.tokens, texts.offsets.diff().tolist())
            return [{"row": torch.tensor(r), "tokens": t} for r, t in zip(rows.tolist(), parts, strict=True)]
        images = reader.read(rows, reader.buffers(len(rows))).to(host)
        named = {name: getattr(images, name) for name in ("tokens", "prefix", "pooled", "weights")}
        return [
            {"row": torch.tensor(row), **{n: part[i] for n, part in named.items() if part is not None}}
            for i, row in enumerate(rows.tolist())
        ]

    @staticmethod
    def collate(items: Sequence[Item]) -> Item:
        """A batch: equal shapes stacked, texts packed as `tokens (sum of l, d)` with `offsets (b + 1,)`."""
        named = {name: [item[name] for item in items] for name in items[0]}
        if set(named) != {"row", "tokens"}:
            return {name: torch.stack(parts) for name, parts in named.items()}
        lengths = torch.tensor([0, *(len(part) for part in named["tokens"])])
        return {
            "row": torch.stack(named["row"]),
            "tokens": torch.cat(named["tokens"]),
            "offsets": lengths.cumsum(0),
        }
