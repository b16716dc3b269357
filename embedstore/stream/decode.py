"""Stored tokens to floats on the device that trains: the torch twins of `embedstore.store.coding.coder`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from embedstore.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from embedstore.documents import ArrayName
    from embedstore.store import Feature
    from embedstore.store.coding.coder import Coder


def decoder_of(feature: Feature) -> TokenDecoder | None:
    """The decoder of a feature, none where heads take the stored values as they are (float16, float32)."""
    policy = feature.coder.policy
    as_they_are = policy.number in ("float16", "float32") and not (policy.pca or policy.pq)
    return None if as_they_are else TokenDecoder(feature.coder)


class TokenDecoder:
    """Decodes batches of one feature. What the policy has learnt is moved to each device once."""

    def __init__(self, coder: Coder) -> None:
        self._coder = coder
        self._moved: dict[tuple[str, torch.device], Tensor] = {}

    def __reduce__(self) -> tuple[type[TokenDecoder], tuple[Coder]]:
        return TokenDecoder, (self._coder,)

    def __call__(self, name: ArrayName, stored: Tensor, scales: Tensor | None = None) -> Tensor:
        """Stored `tokens`, `prefix` or `pooled`, with their scales where they have some, to floats.

        Float32, but what is stored as 16-bit floats stays so where nothing else is done to it.
        """
        policy = self._coder.policy
        shrunk = name == "tokens" and policy.shrinks
        if shrunk and policy.pq:
            values = self._from_codes(stored)
        elif policy.number == "bfloat16":
            values = stored.view(torch.bfloat16)
        elif not policy.scaled:
            values = stored
        elif scales is None:
            raise UsageError(f"{name} is stored with scales and cannot be decoded alone")
        else:
            values = self._scaled(name, stored, scales)
        if shrunk and policy.pca:
            basis, mean = self._learnt("pca.basis", stored), self._learnt("pca.mean", stored)
            flat = torch.addmm(mean, values.float().flatten(0, -2), basis)
            values = flat.view(*values.shape[:-1], basis.shape[1])
        return values

    def _scaled(self, name: ArrayName, stored: Tensor, scales: Tensor) -> Tensor:
        if self._coder.policy.number == "fp8":
            return stored.view(torch.float8_e4m3fn).float().mul_(scales.unsqueeze(-1))
        mean, deviation = (self._learnt(f"{name}.{part}", stored) for part in ("mean", "deviation"))
        return stored.float().mul_(scales.unsqueeze(-1)).mul_(deviation).add_(mean)

    def _from_codes(self, codes: Tensor) -> Tensor:
        codebook = self._learnt("pq.codebook", codes)
        parts, entries, width = codebook.shape
        first = torch.arange(0, parts * entries, entries, dtype=torch.int32, device=codes.device)
        places = (codes.int() + first).flatten()
        found = codebook.view(parts * entries, width).index_select(0, places)
        return found.view(*codes.shape[:-1], parts * width)

    def _learnt(self, name: str, like: Tensor) -> Tensor:
        key = (name, like.device)
        if key not in self._moved:
            self._moved[key] = torch.from_numpy(np.array(self._coder.learnt[name])).to(like.device)
        return self._moved[key]
