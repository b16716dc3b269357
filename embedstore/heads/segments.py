"""Which tokens belong to which sample, and reductions over them: a regular grid, or packed runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch

from embedstore.errors import HeadError
from embedstore.heads.precision import full, wide

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Grid:
    """`b` samples of `t` tokens each; token-wise arrays are `(b·t, …)`, sample by sample.

    `weights (b, t)` float32, none negative, a sum of 1 for each sample: the mean is then the weighted one.
    """

    b: int
    t: int
    weights: Tensor | None = None

    @property
    def places(self) -> int:
        """Tokens in all."""
        return self.b * self.t

    def mean(self, x: Tensor) -> Tensor:
        """`(b·t, k)` to the means of each sample `(b, k)`, float32 or wider."""
        if self.weights is not None:
            with full(x.device):
                x = wide(x)
                return torch.bmm(self.weights.to(x.dtype).unsqueeze(1), x.view(self.b, self.t, -1)).squeeze(1)
        return x.view(self.b, self.t, -1).mean(dim=1, dtype=torch.promote_types(x.dtype, torch.float32))

    def max(self, x: Tensor) -> Tensor:
        """`(b·t, k)` to the largest of each sample and channel `(b, k)`, tokens of weight 0 left out."""
        tokens = x.view(self.b, self.t, -1)
        if self.weights is not None:
            tokens = tokens.masked_fill((self.weights == 0).unsqueeze(2), float("-inf"))
        return tokens.amax(dim=1)

    def spread_mean(self, g: Tensor) -> Tensor:
        """Gradient `(b, k)` of `mean`'s result to that of its input, `(b, t, k)`, a view where it can be."""
        if self.weights is not None:
            return g.unsqueeze(1) * self.weights.to(g.dtype).unsqueeze(2)
        return (g / self.t).unsqueeze(1).expand(self.b, self.t, -1)


@dataclass(frozen=True, slots=True)
class Runs:
    """Packed tokens: sample i owns the next `lengths[i]`; `lengths (b,)` int64 on the tokens' device.

    `places`: their sum, None inside a compiled function, which knows no values.
    """

    lengths: Tensor
    places: int | None

    @classmethod
    def from_offsets(cls, offsets: Tensor, device: torch.device | str | None = None) -> Runs:
        """Runs `offsets[i]..offsets[i+1]`; `offsets (b+1,)` int64 on the host, rising from 0.

        Whoever calls a compiled function has them checked here before.
        """
        lengths = offsets.diff()
        if torch.compiler.is_compiling():
            return cls(lengths.to(device) if device is not None else lengths, None)
        if len(offsets) < 2 or int(offsets[0]) != 0 or int(lengths.min()) < 1:
            raise HeadError(
                "bad offsets of packed tokens",
                found=offsets.tolist()[:10],
                allowed="rising from 0, at least one sample, at least one token a sample",
                todo="leave out texts without tokens (quarantined rows)",
            )
        return cls(lengths.to(device) if device is not None else lengths, int(offsets[-1]))

    def mean(self, x: Tensor) -> Tensor:
        """`(sum of lengths, k)` to the means of each sample `(b, k)`, float32 or wider."""
        return torch.segment_reduce(wide(x), "mean", lengths=self.lengths, axis=0)

    def max(self, x: Tensor) -> Tensor:
        """`(sum of lengths, k)` to the largest of each sample and channel `(b, k)`, float32 or wider."""
        return torch.segment_reduce(wide(x), "max", lengths=self.lengths, axis=0)

    def spread_mean(self, g: Tensor) -> Tensor:
        """Gradient `(b, k)` of `mean`'s result to that of its input, `(sum of lengths, k)`."""
        return (g / self.lengths.unsqueeze(1)).repeat_interleave(self.lengths, dim=0, output_size=self.places)


Segments: TypeAlias = Grid | Runs


def masked(mask: Tensor) -> Grid:
    """The grid of padded tokens `(b, l, d)` with `mask (b, l)`: equal shares where it is True, else none."""
    weights = mask.float()
    return Grid(mask.shape[0], mask.shape[1], weights / weights.sum(dim=1, keepdim=True))


def pack(tokens: Tensor, mask: Tensor) -> tuple[Tensor, Runs]:
    """Padded `tokens (b, l, d)` with `mask (b, l)` bool (True: real) to packed tokens and their runs."""
    offsets = torch.nn.functional.pad(mask.sum(dim=1).cumsum(0), (1, 0)).cpu()
    return tokens[mask], Runs.from_offsets(offsets, tokens.device)
