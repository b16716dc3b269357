"""Batches of tokens as tensors, and how they are read from a feature.

A batch holds what is stored until it is moved with `to`, which decodes it on the device that it goes to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch

from embedstore.errors import UsageError
from embedstore.store.coding.coder import SCALES_OF
from embedstore.store.padded import padded_length
from embedstore.store.reads.blocks import advise, packed_tasks, row_tasks
from embedstore.stream.decode import decoder_of

if TYPE_CHECKING:
    from torch import Tensor

    from embedstore.documents import ArrayName
    from embedstore.shapes import IntArray
    from embedstore.store import Feature
    from embedstore.store.reads.chunks import ShardedArray
    from embedstore.store.reads.pieces import Task
    from embedstore.stream.decode import TokenDecoder

ImageBuffers: TypeAlias = "dict[ArrayName, Tensor]"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTokens:
    """Some pictures: `rows (b,)`, `tokens (b, t, d)`, and `prefix (b, p, d)` or else `pooled (b, w)`.

    Both where the prefix is registers alone: then it is pooled that stands in for CLS.
    A feature that has only pooled embeddings has no tokens: `(b, 0, w)`. `weights (b, t)`: the share of the
    picture that each token stands for, where these differ. While there is a `decoder`, tokens, prefix and
    pooled are codes, and the scales are theirs.
    """

    rows: IntArray
    tokens: Tensor
    prefix: Tensor | None = None
    pooled: Tensor | None = None
    weights: Tensor | None = None
    scales: Tensor | None = None
    prefix_scales: Tensor | None = None
    pooled_scales: Tensor | None = None
    decoder: TokenDecoder | None = None

    def to(self, device: torch.device) -> ImageTokens:
        """The same on a device, decoded; a copy may still be under way where the buffers are pinned."""
        parts: dict[str, Any] = {
            name: part.to(device, non_blocking=True)
            for name in ("tokens", "prefix", "pooled", "weights", *SCALES_OF.values())
            if (part := getattr(self, name)) is not None
        }
        if self.decoder is not None:
            for name, scales in SCALES_OF.items():
                beside = parts.pop(scales, None)
                if name in parts and parts[name].numel():
                    parts[name] = self.decoder(name, parts[name], beside)
            parts |= dict.fromkeys((*SCALES_OF.values(), "decoder"))
        return replace(self, **parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTokens:
    """Some texts: `rows (b,)`, packed `tokens (sum of l, d)`, `offsets (b+1,)` int64, always on the host.

    While there is a `decoder`, tokens are codes of the stored `array`, and `scales (sum of l,)` are theirs.
    """

    rows: IntArray
    tokens: Tensor
    offsets: Tensor
    scales: Tensor | None = None
    array: Literal["tokens", "pooled"] = "tokens"
    decoder: TokenDecoder | None = None

    def to(self, device: torch.device) -> TextTokens:
        """The same with the tokens on a device, decoded."""
        tokens = self.tokens.to(device)
        if self.decoder is not None:
            tokens = self.decoder(self.array, tokens, None if self.scales is None else self.scales.to(device))
        return TextTokens(rows=self.rows, tokens=tokens, offsets=self.offsets)

    def padded(self, length: int | None = None) -> PaddedTexts:
        """The same decoded, with places for every text alike: the longest text's, or `length`.

        On the device of the tokens. `UsageError` where a text has more tokens than `length`.
        """
        if self.decoder is not None:
            return self.to(self.tokens.device).padded(length)
        lengths = self.offsets.diff()
        wide = padded_length(lengths.numpy(), length)
        mask = torch.arange(wide) < lengths[:, None]
        places = mask.reshape(-1).nonzero().squeeze(1).to(self.tokens.device)
        room = self.tokens.new_zeros(mask.numel(), self.tokens.shape[1])
        room.index_copy_(0, places, self.tokens)
        tokens = room.reshape(*mask.shape, self.tokens.shape[1])
        return PaddedTexts(rows=self.rows, tokens=tokens, mask=mask.to(self.tokens.device))


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedTexts:
    """Some texts: `rows (b,)`, `tokens (b, l, d)` with zeros behind each, `mask (b, l)`, True where real."""

    rows: IntArray
    tokens: Tensor
    mask: Tensor


class ImageReader:
    """Reads tokens and prefix of an image feature, and pooled where its prefix has no CLS.

    Of a feature without tokens (imported) only the pooled embeddings are read.
    """

    def __init__(self, feature: Feature) -> None:
        if feature.table != "images":
            raise UsageError(
                "not an image feature", where=feature.name, found=f"a feature of {feature.table}"
            )
        self.feature = feature
        beside: list[ArrayName] = ["prefix"] if "prefix" in feature.arrays else ["pooled"]
        if "prefix" in feature.arrays and not feature.card.has_cls:
            beside.append("pooled")
        scales = [SCALES_OF[name] for name in beside]
        wanted: tuple[ArrayName, ...] = ("tokens", "scales", "weights", *beside, *scales)
        self.names: tuple[ArrayName, ...] = tuple(name for name in wanted if name in feature.arrays)
        self._decoder = decoder_of(feature)

    @property
    def row_bytes(self) -> int:
        """Bytes of one picture."""
        return sum(self.feature.array(name).place_bytes for name in self.names)

    def buffers(self, batch: int, *, pin: bool = False) -> ImageBuffers:
        """Room for one batch; `pin` for faster copies to a CUDA device."""
        arrays = {name: self.feature.array(name) for name in self.names}
        return {name: _room(array, batch, pin=pin) for name, array in arrays.items()}

    def read(self, rows: IntArray, buffers: ImageBuffers) -> ImageTokens:
        """Pictures `(b,)` in any order, as views of the buffers, which hold at least b."""
        for task in self.tasks(rows, buffers):
            task()
        return self.view(rows, buffers)

    def tasks(self, rows: IntArray, buffers: ImageBuffers, *, direct_io: bool = False) -> list[Task]:
        """What fills the buffers with pictures `(b,)` in any order, for a `GroupReader`.

        `direct_io`: the largest array, whose rows come first, past the page cache.
        """
        return [
            task
            for name, buffer in buffers.items()
            for task in row_tasks(
                self.feature.array(name),
                rows,
                buffer[: len(rows)].numpy(),
                direct_io=direct_io and name == self.names[0],
            )
        ]

    def advise(self, rows: IntArray, *, direct_io: bool = False) -> None:
        """Tell the kernel that these pictures will be read next, in the same way as by `tasks`."""
        for name in self.names:
            advise(self.feature.array(name), rows, direct_io=direct_io and name == self.names[0])

    def view(self, rows: IntArray, buffers: ImageBuffers, first: int = 0) -> ImageTokens:
        """Pictures that lie in the buffers from row `first` on, as views."""
        parts = {name: buffer[first : first + len(rows)] for name, buffer in buffers.items()}
        if "tokens" not in parts:
            parts["tokens"] = parts["pooled"].new_empty(len(rows), 0, self.feature.card.width)
        return ImageTokens(rows=rows, decoder=self._decoder, **parts)


class TextReader:
    """Reads packed tokens of a text feature; a pooled embedding without tokens (imported) counts as one."""

    def __init__(self, feature: Feature) -> None:
        if feature.table != "texts":
            raise UsageError("not a text feature", where=feature.name, found=f"a feature of {feature.table}")
        self.feature = feature
        self._decoder = decoder_of(feature)

    @property
    def name(self) -> Literal["tokens", "pooled"]:
        """The array that is read."""
        return "tokens" if "tokens" in self.feature.arrays else "pooled"

    @property
    def place_bytes(self) -> int:
        """Bytes of one token."""
        return self.feature.array(self.name).place_bytes

    def lengths(self, rows: IntArray) -> IntArray:
        """Tokens of texts `(b,)` int64."""
        if self.name == "pooled":
            return np.ones(len(rows), np.int64)
        return self.feature.lengths()[rows].astype(np.int64)

    def _starts(self, rows: IntArray) -> IntArray:
        return rows if self.name == "pooled" else self.feature.token_starts()[rows]

    def buffers(self, tokens: int, *, pin: bool = False) -> Tensor:
        """Room for so many tokens `(tokens, d)`; `pin` for faster copies to a CUDA device."""
        return _room(self.feature.array(self.name), tokens, pin=pin)

    def offsets(self, rows: IntArray) -> IntArray:
        """Where the tokens of texts `(b,)` lie once they are packed `(b + 1,)` int64."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths(rows))])

    def tasks(self, rows: IntArray, offsets: IntArray, buffer: Tensor) -> list[Task]:
        """What fills the buffer with texts `(b,)` in any order, packed, for a `GroupReader`."""
        array, room = self.feature.array(self.name), buffer[: int(offsets[-1])].numpy()
        return packed_tasks(array, self._starts(rows), np.diff(offsets), offsets[:-1], room)

    def advise(self, rows: IntArray) -> None:
        """Tell the kernel that these texts will be read next: of neighbours it brings all between them."""
        advise(self.feature.array(self.name), self._starts(rows), lengths=self.lengths(rows))

    def view(self, rows: IntArray, offsets: IntArray, buffer: Tensor) -> TextTokens:
        """Texts whose tokens lie in the buffer at `offsets (b + 1,)`, as views."""
        tokens = buffer[int(offsets[0]) : int(offsets[-1])]
        return self._batch(rows, tokens, torch.from_numpy(offsets - offsets[0]))

    def read(self, rows: IntArray) -> TextTokens:
        """Texts `(b,)` in any order."""
        if "tokens" not in self.feature.arrays:
            pooled = torch.from_numpy(self.feature.gather("pooled", rows))
            return self._batch(rows, pooled, torch.arange(len(rows) + 1))
        packed = self.feature.text_tokens(rows)
        return self._batch(rows, torch.from_numpy(packed.tokens), torch.from_numpy(packed.offsets))

    def _batch(self, rows: IntArray, tokens: Tensor, offsets: Tensor) -> TextTokens:
        return TextTokens(
            rows=rows,
            tokens=tokens,
            offsets=offsets,
            scales=self._scales(rows),
            array=self.name,
            decoder=self._decoder,
        )

    def _scales(self, rows: IntArray) -> Tensor | None:
        """A few bytes a text: read when the batch is cut, not ahead."""
        name = SCALES_OF[self.name]
        if name not in self.feature.arrays:
            return None
        if name == "scales":
            return torch.from_numpy(self.feature.text_tokens(rows, name).tokens)
        return torch.from_numpy(self.feature.gather(name, rows))


def _room(array: ShardedArray, places: int, *, pin: bool) -> Tensor:
    """Room for places of an array. NumPy asks the system for huge pages, which torch alone does not."""
    room = array.empty(0 if pin else places)
    tensor = torch.from_numpy(room)
    return torch.empty((places, *room.shape[1:]), dtype=tensor.dtype, pin_memory=True) if pin else tensor
