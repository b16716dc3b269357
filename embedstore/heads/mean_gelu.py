"""`mean_t GELU(W x_t + b)` for tokens that need no gradient: one product forward, one backward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from embedstore.errors import HeadError
from embedstore.heads.buffers import POOL

if TYPE_CHECKING:
    from torch import Tensor

    from embedstore.heads.segments import Segments


class _MeanGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, segments: Segments) -> Tensor:
        before = POOL.take(len(x), len(weight), like=x)
        torch.addmm(bias, x, weight.T, out=before)
        after = POOL.take(*before.shape, like=x)
        torch.ops.aten.gelu.out(before, out=after)
        mean = segments.mean(after)
        POOL.give(after)
        if any(ctx.needs_input_grad):
            ctx.x, ctx.before, ctx.segments = x, before, segments
        else:
            POOL.give(before)
        return mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor, None]:
        x, before, segments = ctx.x, ctx.before, ctx.segments
        if before is None:
            raise HeadError("a second backward pass through one graph", todo="compute the loss again")
        ctx.x = ctx.before = None
        slope = POOL.take(*before.shape, like=x)
        g = segments.spread_mean(grad.to(before.dtype))
        torch.ops.aten.gelu_backward.grad_input(g, before.view(g.shape), grad_input=slope.view(g.shape))
        weight_grad, bias_grad = slope.T @ x, slope.sum(0)
        POOL.give(before, slope)
        return None, weight_grad, bias_grad, None


def mean_gelu(x: Tensor, weight: Tensor, bias: Tensor, segments: Segments) -> Tensor:
    """The mean of `GELU(x Wᵀ + b)` (the exact, erf one) over the tokens of each sample.

    `x` `(places, d)` contiguous and without gradient, `weight` `(e, d)`, `bias` `(e,)`, one floating dtype;
    returns `(b, e)`, float32 or wider. Differentiable once in `weight` and `bias`; a second backward pass
    through one graph is refused, since the buffers of the first are in use again.
    """
    if torch.compiler.is_compiling():
        return segments.mean(functional.gelu(functional.linear(x, weight, bias)))
    mean: Tensor = _MeanGelu.apply(x, weight, bias, segments)
    return mean
