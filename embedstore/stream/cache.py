"""A whole feature in the memory of the device that trains, for when it fits.

This is what a `Feature.to_device_cache()` would be; it lives here because the store knows no torch.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedstore.errors import UsageError
from embedstore.store.coding.coder import SCALES_OF
from embedstore.store.memory import free_memory
from embedstore.stream.batches import ImageReader, ImageTokens, TextReader, TextTokens
from embedstore.stream.dataset import TokenStream, good_rows

if TYPE_CHECKING:
    from torch import Tensor

    from embedstore.documents import ArrayName
    from embedstore.shapes import IntArray
    from embedstore.store import Feature

SHARE_CUDA = 0.6
SHARE_HOST = 0.5
_PARTS = ("tokens", "prefix", "pooled", "weights", *SCALES_OF.values())
_READ_MB = 64


def free_bytes(device: torch.device) -> int:
    """Free memory of a device in bytes; of the host what can be had without swapping."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = free_memory()
    return free if free is not None else os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def cache_bytes(feature: Feature, rows: IntArray | None = None) -> int:
    """Bytes that a `DeviceCache` of these rows takes."""
    kept = good_rows(feature, rows)
    if feature.table == "images":
        return ImageReader(feature).row_bytes * len(kept)
    reader = TextReader(feature)
    tokens = int(reader.lengths(kept).sum())
    scales: ArrayName = "scales" if "tokens" in feature.arrays else "pooled_scales"
    beside = feature.array(scales).place_bytes if scales in feature.arrays else 0
    return tokens * (reader.place_bytes + beside)


def room_for(device: torch.device, share: float | None = None) -> int:
    """Bytes that caches may take on a device now: a share of what is free.

    By default 0.6 of a GPU's memory, so that a step has the rest, and 0.5 of the host's.
    """
    usual = SHARE_CUDA if device.type == "cuda" else SHARE_HOST
    return int((usual if share is None else share) * free_bytes(device))


def refuse_too_large(needed: int, device: torch.device, *, where: str, share: float | None = None) -> None:
    """`UsageError` with both numbers where so many bytes do not fit."""
    room, free = room_for(device, share), free_bytes(device)
    if needed > room:
        raise UsageError(
            "the tokens do not fit the device's memory",
            where=where,
            found=f"{needed / 1e9:.3g} GB",
            allowed=f"{room / 1e9:.3g} GB, of the {free / 1e9:.3g} GB that are free on {device}",
            todo="stream them instead",
        )


class DeviceCache:
    """Rows of a feature on one device: `batch(rows)` needs no disk and no copy of tokens from the host.

    What is stored is kept, and each batch decoded, so that a quantised feature takes its small size there and
    a batch is to the bit what a stream would have brought. `rows` ascending, all by default; quarantined ones
    are left out. Raises `UsageError` where it takes more than `room_for(device, share)`, with both numbers.
    """

    def __init__(
        self,
        feature: Feature,
        device: torch.device | str,
        *,
        rows: IntArray | None = None,
        share: float | None = None,
    ) -> None:
        self.device = torch.device(device)
        refuse_too_large(cache_bytes(feature, rows), self.device, where=feature.name, share=share)
        stream = TokenStream(feature, batch_size=256, rows=rows, shuffle="none", buffer_mb=_READ_MB)
        self.rows = stream.rows
        self._parts: dict[str, Tensor] = {}
        self._lengths = self._lengths_of(feature)
        self._starts = torch.cumsum(self._lengths, 0) - self._lengths
        self._name, self._like = feature.name, self._fill(stream)
        self._place = torch.full((feature.rows,), -1, dtype=torch.int64)
        self._place[torch.from_numpy(self.rows)] = torch.arange(len(self.rows))

    def _lengths_of(self, feature: Feature) -> Tensor:
        """How many places of the parts each row takes."""
        if feature.table == "images":
            return torch.ones(len(self.rows), dtype=torch.int64)
        return torch.from_numpy(TextReader(feature).lengths(self.rows))

    def _fill(self, stream: TokenStream) -> ImageTokens | TextTokens | None:
        """Read everything; an empty batch, for what is the same in all of them."""
        places, at, like = int(self._lengths.sum()), 0, None
        for batch in stream:
            named: dict[str, Any] = {
                name: part for name in _PARTS if (part := getattr(batch, name, None)) is not None
            }
            for name, part in named.items():
                if name not in self._parts:
                    shape = (places, *part.shape[1:])
                    self._parts[name] = torch.empty(shape, dtype=part.dtype, device=self.device)
                self._parts[name][at : at + len(part)].copy_(part)
            at += len(batch.tokens)
            like = like or replace(batch, **{name: part[:0].clone() for name, part in named.items()})
        return like

    @property
    def nbytes(self) -> int:
        """Bytes that the cache takes on the device."""
        return sum(part.nbytes for part in self._parts.values())

    def batch(self, rows: IntArray) -> ImageTokens | TextTokens:
        """Any cached rows `(b,)` in any order, decoded on the device; `UsageError` for one not there."""
        if self._like is None:
            raise UsageError("the cache is empty", where=self._name)
        return self.images(rows) if isinstance(self._like, ImageTokens) else self.texts(rows)

    def images(self, rows: IntArray) -> ImageTokens:
        """As `batch`, of a feature of images."""
        if not isinstance(self._like, ImageTokens):
            raise UsageError("this cache holds no images", where=self._name)
        return replace(self._like, rows=rows, **self._at(self._places(rows))).to(self.device)

    def texts(self, rows: IntArray) -> TextTokens:
        """As `batch`, of a feature of texts: packed, the offsets on the host."""
        if not isinstance(self._like, TextTokens):
            raise UsageError("this cache holds no texts", where=self._name)
        places = self._places(rows)
        lengths = self._lengths[places]
        offsets = torch.cat([lengths.new_zeros(1), torch.cumsum(lengths, 0)])
        shift = torch.repeat_interleave(self._starts[places] - offsets[:-1], lengths)
        parts = self._at(torch.arange(int(offsets[-1])) + shift)
        return replace(self._like, rows=rows, offsets=offsets, **parts).to(self.device)

    def _places(self, rows: IntArray) -> Tensor:
        wanted = torch.from_numpy(np.asarray(rows, np.int64))
        inside = ((wanted >= 0) & (wanted < len(self._place))).all()
        places = self._place[wanted] if inside else wanted.new_full((1,), -1)
        if (places < 0).any():
            raise UsageError("a row is not in the cache", allowed=f"the {len(self.rows)} good rows given")
        return places

    def _at(self, places: Tensor) -> dict[str, Any]:
        there = places.to(self.device)
        return {name: _taken(part, there) for name, part in self._parts.items()}


def _taken(part: Tensor, places: Tensor) -> Tensor:
    """Places of a tensor; unsigned 16-bit words (bfloat16 as stored) are taken as signed ones."""
    if part.dtype == torch.uint16:
        return part.view(torch.int16)[places].view(torch.uint16)
    return part[places]
