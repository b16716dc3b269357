"""A light transformer block whose tokens may stand for several patches, or for none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional

from embedstore.errors import HeadError
from embedstore.heads.dropout import dropout

if TYPE_CHECKING:
    import torch


class Block(nn.Module):
    """`x += Drop(Attention(LN(x)))`, then `x += Drop(W_2 GELU(W_1 LN(x)))`: a pre-norm ViT block.

    `HeadError` where `width` is not a multiple of `head_width`.
    """

    def __init__(self, width: int, *, head_width: int, expansion: int, dropout: float) -> None:
        super().__init__()
        if width % head_width:
            raise HeadError(
                "the attention heads do not share the tokens' width evenly",
                where="head_width",
                found=f"{head_width} for tokens {width} wide",
                allowed=f"a divisor of {width}",
            )
        self.heads, self.dropout = width // head_width, dropout
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, expansion * width), nn.Linear(expansion * width, width)

    @property
    def _rate(self) -> float:
        return self.dropout if self.training else 0.0

    def forward(self, x: Tensor, log_counts: Tensor | None = None) -> Tensor:
        """`x (b, n, d)`; `log_counts (b, n)`: logarithm of how many tokens each stands for."""
        x = x + dropout(self.mix(self._attend(self.norm_attention(x), log_counts)), self._rate)
        return x + dropout(self.down(functional.gelu(self.up(self.norm_mlp(x)))), self._rate)

    def _attend(self, x: Tensor, log_counts: Tensor | None) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = None if log_counts is None else log_counts[:, None, None, :].to(q.dtype)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return mixed.transpose(1, 2).flatten(2)


def log_counts_of(weights: Tensor, patches: int, others: int, dtype: torch.dtype) -> Tensor:
    """Logarithm of how many tokens each of `others` single ones and of the patches stands for, `(b, p + t)`.

    `weights (b, t)` are shares of the picture, which has so many `patches`.
    """
    return functional.pad((weights.to(dtype) * patches).log(), (others, 0))
