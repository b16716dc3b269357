"""Batch normalisation by the statistics of all processes, in one graph."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from embedstore.fit.batch_statistics import let_know, normalises_by_batch, refuse_single
from embedstore.heads.precision import full, wide

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from embedstore.fit.world import World


class SyncedStatistics:
    """The batch normalisations of a module while each process has a part of the batch, of any size.

    Two sums over the processes a layer and a step forward, of its mean and of its variance about that, and
    two backward. Running averages learn of the whole batch.
    """

    def __init__(self, module: nn.Module, world: World) -> None:
        self._norms, self._world = [m for m in module.modules() if normalises_by_batch(m)], world

    @contextmanager
    def synced(self) -> Iterator[None]:
        """Inside, the layers normalise by the whole batch."""
        for layer in self._norms:
            layer.forward = partial(_forward, layer, self._world)
        try:
            yield
        finally:
            for layer in self._norms:
                del layer.forward


def _forward(
    layer: Any, world: World, x: Tensor, shares: Tensor | None = None, count: float | None = None
) -> Tensor:
    """`x (n, c, …)` as of `batch_statistics.normalises_by_batch`, in float32 or wider."""
    with full(x.device):
        return _normalised(layer, world, wide(x), shares, count)


def _normalised(layer: Any, world: World, x: Tensor, shares: Tensor | None, count: float | None) -> Tensor:
    flat = x.movedim(1, -1).reshape(-1, x.shape[1])
    if shares is None or count is None:
        count = float(len(flat))
        shares = flat.new_full((len(flat),), 1 / count)
    counts = shares.to(flat.dtype) * count
    sums = world.total_with_gradient(torch.cat([counts @ flat, flat.new_full((1,), count)]))
    total = float(sums[-1].detach())
    refuse_single(total)
    mean = sums[:-1] / total
    shape = [1, -1] + [1] * (x.ndim - 2)
    variance = world.total_with_gradient(counts @ (flat - mean).square()) / total
    let_know(layer, mean.detach(), variance.detach() * (total / (total - 1)))
    y: Tensor = (x - mean.view(shape)) * (variance.view(shape) + layer.eps).rsqrt()
    if layer.weight is not None:
        y = torch.addcmul(layer.bias.view(shape), y, layer.weight.view(shape))
    return y
