"""A whole feature in the memory of the device that trains, for when it fits."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch

from embedstore.errors import UsageError
from embedstore.stream.batches import ImageTokens
from embedstore.stream.dataset import TokenStream

if TYPE_CHECKING:
    from torch import Tensor

    from embedstore.shapes import IntArray
    from embedstore.store import Feature

_PARTS = ("tokens", "prefix", "pooled", "weights")


def free_bytes(device: torch.device) -> int:
    """Free memory of a device in bytes; of the host its unused pages."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class DeviceCache:
    """Pictures of a feature, decoded, on one device: `batch(rows)` needs no disk and no copy from the host.

    `rows` ascending, all by default; quarantined ones are left out. Raises `UsageError` where the decoded
    tokens would take more than `share` of the memory that is free now, with both numbers.
    """

    def __init__(
        self,
        feature: Feature,
        device: torch.device | str,
        *,
        rows: IntArray | None = None,
        share: float = 0.8,
    ) -> None:
        self.device = torch.device(device)
        stream = TokenStream(feature, batch_size=256, rows=rows, shuffle="none", buffer_mb=64)
        self.rows = stream.rows
        self._parts: dict[str, Tensor] = {}
        at = 0
        for batch in stream:
            if not isinstance(batch, ImageTokens):
                raise UsageError("only pictures are kept on a device", where=feature.name)
            decoded = batch.to(self.device)
            named = {name: part for name in _PARTS if (part := getattr(decoded, name)) is not None}
            if not self._parts:
                self._parts = self._room(feature, named, share)
            for name, part in named.items():
                self._parts[name][at : at + len(part)].copy_(part)
            at += len(batch.rows)
        self._place = torch.full((feature.rows,), -1, dtype=torch.int64)
        self._place[torch.from_numpy(self.rows)] = torch.arange(len(self.rows))

    def _room(self, feature: Feature, named: dict[str, Tensor], share: float) -> dict[str, Tensor]:
        shapes = {name: (len(self.rows), *part.shape[1:]) for name, part in named.items()}
        needed = sum(part[:1].nbytes for part in named.values()) * len(self.rows)
        free = free_bytes(self.device)
        if needed > share * free:
            raise UsageError(
                "the feature does not fit the device's memory",
                where=feature.name,
                found=f"{needed / 1e9:.3g} GB",
                allowed=f"{share:.0%} of the {free / 1e9:.3g} GB that are free on {self.device}",
                todo="stream it instead",
            )
        return {
            name: torch.empty(shape, dtype=named[name].dtype, device=self.device)
            for name, shape in shapes.items()
        }

    @property
    def nbytes(self) -> int:
        """Bytes that the cache takes on the device."""
        return sum(part.nbytes for part in self._parts.values())

    def batch(self, rows: IntArray) -> ImageTokens:
        """Any cached pictures `(b,)` in any order, on the device; `UsageError` for one that is not there."""
        wanted = torch.from_numpy(rows)
        inside = ((wanted >= 0) & (wanted < len(self._place))).all()
        places = self._place[wanted] if inside else wanted.new_full((1,), -1)
        if (places < 0).any():
            raise UsageError("a row is not in the cache", allowed=f"the {len(self.rows)} good rows given")
        places = places.to(self.device)
        parts: dict[str, Any] = {name: part[places] for name, part in self._parts.items()}
        return ImageTokens(rows=rows, **parts)
