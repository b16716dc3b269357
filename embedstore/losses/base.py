"""What a loss is, for the trainer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from torch import nn

from embedstore.errors import UsageError
from embedstore.losses import LOSSES

if TYPE_CHECKING:
    from torch import Tensor


class Loss(nn.Module, ABC):
    """Two batches of unit vectors to one number; constructed with `temperature`, τ at the start.

    Its parameters are learnt with the head's; those with fewer than two axes never decay.
    """

    temperature: nn.Parameter

    @abstractmethod
    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """The loss of `(b, e)` and `(b, e)`, row i of one side belonging to row i of the other; a scalar."""

    @abstractmethod
    def clamp(self) -> None:
        """Bring the parameters back into their ranges, in place; called after every update."""


def build_loss(name: str, *, temperature: float) -> Loss:
    """The loss of this name; `UnknownNameError` for a name in no table."""
    loss = LOSSES.load(name)(temperature=temperature)
    if not isinstance(loss, Loss):
        raise UsageError(f"{name!r} is not a loss", allowed="a subclass of Loss")
    return loss
