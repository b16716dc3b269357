"""DALIP's second-order embedding of one modality: from tokens to one unit vector a sample."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from embedstore.errors import HeadError
from embedstore.heads.anchored import cosine_and_map
from embedstore.heads.batch_norm import TokenBatchNorm
from embedstore.heads.dropout import dropout
from embedstore.heads.precision import unit
from embedstore.heads.second_order import (
    bdc_matrix,
    kspd_matrix,
    moment_matrices,
    upper_triangle,
)

if TYPE_CHECKING:
    from embedstore.documents import DalipOptions
    from embedstore.heads.token_sets import TokenSets


class Distribution(nn.Module):
    """Tokens to the second-order embedding of their distribution, in five steps.

    1. One bias-free linear map D→E of tokens and anchor. 2. Channels in h heads; in each a softmax over the
    tokens of `cos(anchor, token)`. 3. One bias-free linear map to r channels, shared by the heads; then batch
    norm (images; every head its own statistics, scale and shift) or LayerNorm (texts, shared by the heads),
    ReLU, dropout of whole channels, the attention's weight. With `convention` 'dalip' the weight comes before
    the linear map, so that it cancels in the LayerNorm. 4. A matrix over the channels of each head, see
    `second_order`. 5. Its upper triangle ('mp': all of it), all heads in one vector of n numbers;
    LayerNorm(1e-7), Linear n→n, bias-free linear n→E, normalised.

    `HeadError` where h does not divide E, and for 'mp' with one head.
    Source: DALIP, section 4 (equations of MBDC) and its public code.
    """

    def __init__(self, width_in: int, width: int, options: DalipOptions, *, image: bool) -> None:
        super().__init__()
        self.kind, r = options.second, options.reduced
        self.heads = 1 if self.kind == "bdc" else options.heads
        if width % self.heads or (self.kind == "mp" and self.heads < 2):
            raise HeadError(
                f"{self.kind!r} cannot cut the joint width into these heads",
                where="heads",
                found=f"{self.heads} heads of width {width}",
                allowed=f"a divisor of {width}" + (", two or more" if self.kind == "mp" else ""),
            )
        self.reduced, self.rate, self.weigh_first = r, options.channel_dropout, options.convention == "dalip"
        self.project = nn.Linear(width_in, width, bias=False)
        self.reduce = nn.Linear(width // self.heads, r, bias=False)
        self.norm = TokenBatchNorm(self.heads * r) if image else nn.LayerNorm(r)
        size = (self.heads - 1) * r * r if self.kind == "mp" else self.heads * r * (r + 1) // 2
        self.out = nn.Sequential(
            nn.LayerNorm(size, eps=1e-7), nn.Linear(size, size), nn.Linear(size, width, bias=False)
        )

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self.project.weight.dtype

    def forward(self, tokens: Tensor, anchor: Tensor, sets: TokenSets) -> Tensor:
        """Frozen `tokens (*lead, d)` and anchors `(b, d)` in any floating type to unit vectors `(b, e)`."""
        own = (self.heads, -1)
        y = self.project(tokens.to(self.dtype)).unflatten(-1, own)
        a = self.project(anchor.to(self.dtype)).unflatten(-1, own)
        cosine, z = cosine_and_map(y, a, self.reduce.weight, sets)
        weight = sets.attention(cosine).unsqueeze(-1)
        if self.weigh_first:
            # The map is linear and has no bias: what it makes may be weighed in place of what it takes.
            x = self._reduced(z * sets.unpadded(weight), sets)
        else:
            x = self._reduced(z, sets) * weight
        if sets.copies is not None:
            x = x * sets.copies.to(x.dtype).sqrt()[:, :, None, None]
        embedded: Tensor = self.out(self._vector(x.transpose(1, 2), sets.count).to(self.dtype))
        return unit(embedded)

    def _reduced(self, z: Tensor, sets: TokenSets) -> Tensor:
        """Norm, ReLU and dropout of `(*lead, h, r)`; zeros where there is no token: `(b, m, h, r)`."""
        if isinstance(self.norm, TokenBatchNorm):
            flat = z.flatten(-2).flatten(0, -2)
            z = self.norm(flat, sets.shares(z.dtype), sets.total).view(z.shape)
        else:
            z = self.norm(z)
        x = sets.padded(z.relu())
        if self.training and self.rate:
            x = x * dropout(x.new_ones(sets.b, 1, self.heads, self.reduced), self.rate)
        return x

    def _vector(self, x: Tensor, count: Tensor) -> Tensor:
        """`x (b, h, m, r)` to all numbers of its matrices `(b, n)`."""
        if self.kind == "mp":
            return moment_matrices(x, count).flatten(1)
        matrices = kspd_matrix(x) if self.kind == "kspd" else bdc_matrix(x, count)
        return upper_triangle(matrices).flatten(1)
