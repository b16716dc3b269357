"""Batch normalisation over a batch that is seen in parts: its mean and variance, and their gradients.

A layer's mean and variance are variables beside the weights. They are measured in a pass of their own, are
leaves of the graph while the loss is differentiated, and what gradient they collect there is carried to the
weights in a last pass: both are sums over the batch. So values and gradients are the undivided batch's.
A layer that stands behind another one takes a pass more of either kind.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from embedstore.errors import HeadError
from embedstore.heads.precision import full, wide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from embedstore.fit.world import World


class _Enough(Exception):  # noqa: N818 - no error: the rest of a forward pass is not needed
    """A forward pass has reached the layer that it was run for."""


def normalises_by_batch(module: nn.Module) -> bool:
    """Whether it is a batch normalisation of torch, or one of a head, called with `(x, shares, count)`.

    Such a one has `weight`, `bias`, `eps`, `running_mean` and `running_variance`; `x (n, c)`; `shares (n,)`
    sum to 1 and are what each row counts; `count` is of how many values a channel.
    """
    return isinstance(module, _BatchNorm) or isinstance(getattr(module, "running_variance", None), Tensor)


@dataclass(slots=True, eq=False)
class _SplitNorm:
    """What stands in for a layer's forward while its batch comes in parts.

    `wave` is the pass in which it was measured, below 0 until then.
    """

    layer: Any
    wave: int = -1
    count: float = 0.0
    centre: Tensor | None = None
    squares: Tensor | None = None
    mean: Tensor = field(default_factory=lambda: torch.empty(0))
    var: Tensor = field(default_factory=lambda: torch.empty(0))
    carrying: bool = False
    carried: Tensor | None = None

    def start(self) -> None:
        """Forget the last batch."""
        self.wave, self.count, self.centre, self.squares = -1, 0.0, None, None

    def forward(self, x: Tensor, shares: Tensor | None = None, count: float | None = None) -> Tensor:
        """`x (n, c, …)` normalised by the whole batch; in the passes that measure or carry, no further.

        In float32 or wider.
        """
        with full(x.device):
            return self._normalised(wide(x), shares, count)

    def _normalised(self, x: Tensor, shares: Tensor | None, count: float | None) -> Tensor:
        flat = x.movedim(1, -1).reshape(-1, x.shape[1])
        if shares is None or count is None:
            count = float(len(flat))
            shares = flat.new_full((len(flat),), 1 / count)
        shares = shares.to(flat.dtype)
        if self.wave < 0:
            self._add(flat.detach(), shares, count)
            raise _Enough
        if self.carrying:
            squares = shares @ (flat - self.mean.detach()).square()
            whole = (shares @ flat) @ _grad(self.mean) + squares @ _grad(self.var)
            self.carried = whole * (count / self.count)
            raise _Enough
        shape = [1, -1] + [1] * (x.ndim - 2)
        y: Tensor = (x - self.mean.view(shape)) * (self.var.view(shape) + self.layer.eps).rsqrt()
        if self.layer.weight is not None:
            y = torch.addcmul(self.layer.bias.view(shape), y, self.layer.weight.view(shape))
        return y

    def _add(self, x: Tensor, shares: Tensor, count: float) -> None:
        """Join a part's mean and squares to those so far (Chan, Golub and LeVeque 1979), in float64."""
        wide, weight = x.double(), shares.double()
        mean = weight @ wide
        squares = weight @ (wide - mean).square() * count
        if self.centre is None:
            self.mean = mean.to(x.dtype)
        self._include(count, mean, squares)

    def _include(self, count: float, mean: Tensor, squares: Tensor) -> None:
        if self.centre is None or self.squares is None:
            self.centre, self.squares, self.count = mean, squares, count
            return
        whole, apart = self.count + count, mean - self.centre
        self.centre = self.centre + apart * (count / whole)
        self.squares = self.squares + squares + apart.square() * (self.count * count / whole)
        self.count = whole

    @torch.no_grad()
    def measured(self, wave: int, world: World | None) -> None:
        """Take what the pass has seen as the batch's; the running averages learn of it as ever."""
        if self.centre is None or self.squares is None:
            return
        if world is not None:
            self._join(world, self.centre, self.squares)
        refuse_single(self.count)
        like, self.wave = self.mean.dtype, wave
        self.mean = self.centre.to(like).requires_grad_()
        self.var = (self.squares / self.count).to(like).requires_grad_()
        let_know(self.layer, self.centre, self.squares / (self.count - 1))

    def _join(self, world: World, centre: Tensor, squares: Tensor) -> None:
        """What all processes have measured, in the order of their ranks."""
        own = torch.stack([torch.full_like(centre, self.count), centre, squares])
        self.centre = self.squares = None
        for count, mean, apart in world.parts(own).unbind():
            self._include(float(count[0]), mean, apart)

    def gathered_gradients(self, world: World) -> None:
        """Sum what the mean and the variance have collected over all processes."""
        both = torch.stack([_grad(self.mean), _grad(self.var)])
        world.total(both)
        self.mean.grad, self.var.grad = both.unbind()


class SplitStatistics:
    """The batch normalisations of a module while each batch comes in parts.

    Each layer is used once, for pictures or for texts. `waves`: passes that measure them all, at most; as
    many carry gradients. Processes of a `world` have the parts of one batch.
    """

    def __init__(self, module: nn.Module, world: World | None = None) -> None:
        self._world = world
        self._norms = [_SplitNorm(m) for m in module.modules() if normalises_by_batch(m)]
        self.waves = len(self._norms)

    @contextmanager
    def split(self) -> Iterator[None]:
        """Inside, the layers are these; a new batch begins."""
        for norm in self._norms:
            norm.start()
            norm.layer.forward = norm.forward
        try:
            yield
        finally:
            for norm in self._norms:
                del norm.layer.forward

    def measured(self, wave: int) -> None:
        """A pass over the batch has ended; the layers that it reached first are measured."""
        for norm in self._norms:
            if norm.wave < 0:
                norm.measured(wave, self._world)

    @contextmanager
    def carrying(self, wave: int) -> Iterator[None]:
        """Inside, forward passes stop at the layers measured in this wave, which carry their gradients."""
        found = [norm for norm in self._norms if norm.wave == wave]
        for norm in found:
            norm.carrying = True
            if self._world is not None:
                norm.gathered_gradients(self._world)
        try:
            yield
        finally:
            for norm in found:
                norm.carrying = False

    def stopped(self, forward: Callable[[], Tensor]) -> bool:
        """Run a forward pass up to the layer that it is run for, if there is one: whether there was.

        Where a layer carries, its gradient goes on to the weights.
        """
        try:
            forward()
        except _Enough:
            for norm in self._norms:
                if norm.carried is not None and norm.carried.requires_grad:
                    torch.autograd.backward([norm.carried])
                norm.carried = None
            return True
        return False


def refuse_single(count: float) -> None:
    """`HeadError` for a batch whose variance nobody knows."""
    if count < 2:
        raise HeadError("batch normalisation needs more than one value a channel", where="batch_size")


@torch.no_grad()
def let_know(layer: Any, mean: Tensor, unbiased: Tensor) -> None:
    """Take a batch's mean and unbiased variance into the running ones of a layer, as it would itself."""
    running = layer.running_var if isinstance(layer, _BatchNorm) else layer.running_variance
    if layer.running_mean is None or running is None:
        return
    share = getattr(layer, "momentum", 0.1)
    if isinstance(layer, _BatchNorm) and layer.num_batches_tracked is not None:
        layer.num_batches_tracked += 1
        share = 1 / float(layer.num_batches_tracked) if share is None else share
    layer.running_mean.lerp_(mean.to(layer.running_mean), share)
    running.lerp_(unbiased.to(running), share)


def _grad(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
