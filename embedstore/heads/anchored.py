"""Each head's channels of a token: their cosine to an anchor and a linear map of them, with one gradient.

Written by hand because token-sized arrays are what a second-order step spends its time on: autograd's own
cosine makes some fifteen of them and this makes two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from embedstore.heads.precision import full, wide

if TYPE_CHECKING:
    from torch import Tensor

    from embedstore.heads.token_sets import TokenSets

LEAST_NORM = 1e-8


class _CosineAndMap(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, y: Tensor, anchor: Tensor, weight: Tensor, sets: TokenSets
    ) -> tuple[Tensor, Tensor]:
        length, own = _length(y), _length(anchor).unsqueeze(-1)
        direction = anchor / own
        cosine = sets.inner(y, direction).div_(length)
        ctx.save_for_backward(y, direction, own, length, cosine, weight)
        ctx.sets = sets
        return cosine, y @ weight.T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_cosine: Tensor, of_mapped: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        y, direction, own, length, cosine, weight = ctx.saved_tensors
        sets: TokenSets = ctx.sets
        flat = of_mapped.flatten(0, -2)
        y_grad = torch.mm(flat, weight).view(y.shape)
        weight_grad = torch.mm(flat.T, y.flatten(0, -2))
        share = of_cosine / length
        y_grad.addcmul_(y, (share * cosine / length).unsqueeze(-1), value=-1)
        y_grad.addcmul_(sets.spread(direction), share.unsqueeze(-1))
        along = sets.sums(share, y)
        anchor_grad = (along - direction * (along * direction).sum(-1, keepdim=True)) / own
        return y_grad, anchor_grad, weight_grad, None


def _length(x: Tensor) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(x, dim=-1).clamp(min=LEAST_NORM)
    return found


def cosine_and_map(y: Tensor, anchor: Tensor, weight: Tensor, sets: TokenSets) -> tuple[Tensor, Tensor]:
    """`cos(anchor, y)` `(*lead, h)` and `y @ weightᵀ` `(*lead, h, r)`.

    `y (*lead, h, c)`, `anchor (b, h, c)`, `weight (r, c)`, one floating type; `lead` as in `TokenSets`. Norms
    below 1e-8 count as that. Differentiable once in all three.
    """
    with full(y.device):
        y = wide(y)
        anchor, weight = anchor.to(y.dtype), weight.to(y.dtype)
        if not (torch.is_grad_enabled() and any(x.requires_grad for x in (y, anchor, weight))):
            # Nothing but plain operations, which other programs can take over.
            cosine = sets.inner(y, anchor / _length(anchor).unsqueeze(-1)) / _length(y)
            return cosine, y @ weight.T
        found: tuple[Tensor, Tensor] = _CosineAndMap.apply(y, anchor, weight, sets)
    return found
