"""How low a linear map between two frozen spaces brings the CLIP loss: freeze-align's ease of alignment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from embedstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

ITERATIONS, LR, TEMPERATURE = 500, 0.01, 0.07


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Some instances alike in shape: map a `(i, n, d1)` to b `(i, n, d2)`; row k of one meets row k of other.

    weight `(i, d1, d2)`, bias `(i, 1, d2)`: the first map. All floating, on one device.
    """

    a: Tensor
    b: Tensor
    weight: Tensor
    bias: Tensor


@torch.inference_mode()
def loss_minima(
    problem: Problem,
    *,
    iterations: int = ITERATIONS,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """The lowest symmetric CLIP loss of each instance `(i,)` float32 on the way of plain gradient descent.

    All rows are one batch, both sides have length 1, the temperature is fixed (freeze-align, section 3.2).
    Every instance has a map and a gradient of its own, written out: a few batched products a step. At this
    learning rate the descent is not smooth, so that rounding moves single minima by some thousandths.

    `UsageError` where a loss is not finite. on_step: called with the steps done.
    """
    a, n = problem.a, problem.a.shape[1]
    weight, bias = problem.weight.clone(), problem.bias.clone()
    target = functional.normalize(problem.b, dim=-1) / TEMPERATURE
    across, back = target.mT.contiguous(), a.mT.contiguous()
    own = torch.eye(n, device=a.device, dtype=a.dtype) / n
    lowest = torch.full((len(a),), torch.inf, device=a.device, dtype=a.dtype)
    for step in range(iterations):
        mapped = torch.baddbmm(bias, a, weight)
        length = torch.linalg.vector_norm(mapped, dim=-1, keepdim=True)
        unit = mapped / length
        scores = torch.bmm(unit, across)
        matched = scores.diagonal(dim1=1, dim2=2).mean(1)
        # No score is above 1/τ, so one exponential of the difference serves the softmax of both directions.
        shares = scores.sub_(1 / TEMPERATURE).exp_()
        rows, columns = shares.sum(2, keepdim=True), shares.sum(1, keepdim=True)
        both = (rows.log().mean((1, 2)) + columns.log().mean((1, 2))) / 2
        lowest = torch.minimum(lowest, both + 1 / TEMPERATURE - matched)
        # dL/dscores = (row softmax + column softmax) / 2n - identity / n
        slope = shares.mul_(rows.reciprocal() + columns.reciprocal()).div_(2 * n).sub_(own)
        of_unit = torch.bmm(slope, target)
        of_mapped = (of_unit - unit * (unit * of_unit).sum(-1, keepdim=True)) / length
        weight.baddbmm_(back, of_mapped, alpha=-LR)
        bias.sub_(of_mapped.sum(1, keepdim=True), alpha=LR)
        if on_step is not None:
            on_step(step + 1)
    if not bool(torch.isfinite(lowest).all()):
        raise UsageError("the loss of a linear map is not finite: a vector is zero or too large")
    return lowest
