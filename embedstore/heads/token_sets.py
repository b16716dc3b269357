"""Sets of tokens, one a sample, and how they lie: a regular grid, perhaps with shares, or packed runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from embedstore.heads.segments import Runs

if TYPE_CHECKING:
    from torch import Tensor

_LEAST = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSets:
    """`b` samples with at most `m` tokens each; token-wise arrays are `(*lead, …)`.

    lead: `(b, m)` of a grid, `(places,)` of packed tokens, whose flat places in `(b·m)` are then `where`.
    count `(b,)`: tokens that each sample stands for; `total` of all of them. copies `(b, m)`: how many of
    these each place stands for, 0 for none; none: one each. owner `(places,)`: whose each packed token is.
    """

    b: int
    m: int
    count: Tensor
    total: float
    copies: Tensor | None = None
    where: Tensor | None = None
    owner: Tensor | None = None

    @classmethod
    def grid(cls, tokens: Tensor, shares: Tensor | None, patches: int | None) -> TokenSets:
        """Of `tokens (b, t, d)`; shares `(b, t)` of a picture that the encoder cut into so many patches."""
        b, m = tokens.shape[:2]
        whole = m if shares is None else patches or m
        count = torch.full((b,), whole, dtype=torch.float32, device=tokens.device)
        return cls(b=b, m=m, count=count, total=b * whole, copies=None if shares is None else shares * whole)

    @classmethod
    def masked(cls, mask: Tensor) -> TokenSets:
        """Of padded tokens `(b, l, d)` with `mask (b, l)`, True where there is one."""
        b, m = mask.shape
        return cls(b=b, m=m, count=mask.sum(dim=1).float(), total=b * m, copies=mask.float())

    @classmethod
    def packed(cls, offsets: Tensor, device: torch.device) -> TokenSets:
        """Of packed tokens, sample i at `offsets[i]..offsets[i+1]` (int64, on the host)."""
        Runs.from_offsets(offsets)
        lengths = offsets.diff()
        b, m = len(lengths), int(lengths.max())
        owner = torch.repeat_interleave(torch.arange(b), lengths)
        where = torch.arange(int(offsets[-1])) - offsets[owner] + owner * m
        return cls(
            b=b,
            m=m,
            count=lengths.to(device).float(),
            total=float(offsets[-1]),
            where=where.to(device),
            owner=owner.to(device),
        )

    @property
    def lead(self) -> tuple[int, ...]:
        """Leading axes of token-wise arrays."""
        return (self.b, self.m) if self.where is None else (len(self.where),)

    def spread(self, x: Tensor) -> Tensor:
        """Of each sample `(b, …)` to its tokens, broadcasting against `(*lead, …)`."""
        return x.unsqueeze(1) if self.owner is None else x[self.owner]

    def inner(self, x: Tensor, y: Tensor) -> Tensor:
        """Products of each token `x (*lead, h, c)` with its sample's `y (b, h, c)`, over c: `(*lead, h)`."""
        if self.owner is not None:
            found: Tensor = torch.linalg.vecdot(x, y[self.owner])
            return found
        # Head by head, since a product over all of them would copy the tokens.
        return torch.cat([torch.bmm(x[:, :, k], y[:, k].unsqueeze(-1)) for k in range(x.shape[2])], dim=-1)

    def sums(self, weight: Tensor, x: Tensor) -> Tensor:
        """Sums of `weight (*lead, h)` times `x (*lead, h, c)` over each sample's tokens, `(b, h, c)`."""
        if self.owner is None:
            heads = [torch.bmm(weight[:, :, k].unsqueeze(1), x[:, :, k]) for k in range(x.shape[2])]
            return torch.cat(heads, dim=1)
        lengths = self.count.to(torch.int64)
        return torch.segment_reduce(weight.unsqueeze(-1) * x, "sum", lengths=lengths, axis=0)

    def padded(self, x: Tensor, fill: float = 0.0) -> Tensor:
        """Token-wise `(*lead, …)` to `(b, m, …)`, `fill` where there is no token."""
        if self.where is None:
            return x
        room = x.new_full((self.b * self.m, *x.shape[1:]), fill)
        return room.index_copy(0, self.where, x).view(self.b, self.m, *x.shape[1:])

    def unpadded(self, x: Tensor) -> Tensor:
        """The way back: `(b, m, …)` to `(*lead, …)`."""
        return x if self.where is None else x.flatten(0, 1)[self.where]

    def attention(self, scores: Tensor) -> Tensor:
        """`softmax` over the tokens of each sample, `(*lead, h)` to `(b, m, h)`: the weight of one copy.

        Places without a token get 0. A token that stands for several has the weight of each of these.
        """
        padded = self.padded(scores, float("-inf"))
        if self.copies is None:
            return padded.softmax(dim=1)
        copies = self.copies.to(scores.dtype).unsqueeze(-1)
        return (padded + copies.log()).softmax(dim=1) / copies.clamp(min=_LEAST)

    def shares(self, dtype: torch.dtype) -> Tensor:
        """What each token of a grid counts in a mean over all samples' tokens, `(b·m,)`, summing to 1."""
        if self.copies is None:
            return self.count.new_full((self.b * self.m,), 1 / self.total, dtype=dtype)
        return self.copies.to(dtype).flatten() / self.total
