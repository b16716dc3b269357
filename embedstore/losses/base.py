"""What a loss is, for the trainer."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from embedstore.errors import UsageError
from embedstore.losses import LOSSES

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """Which picture of the batch each of `m` texts belongs to, and which texts say the same.

    `owner (m,)` int64: row of the picture, which every picture has at least once. `words (m,)` int64: equal
    where the captions are the same string; a picture and a text of equal words to one of its own are then
    no negatives of each other. None: the words are not looked at.
    """

    owner: Tensor
    words: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPairs:
    """Unit vectors of all patches and words of a step, for a loss that compares them inside each pair.

    patches `(b, t, e)`; shares `(b, t)`: what part of its picture each stands for, summing to 1, 0 for none;
    none: one patch each. `count`: patches that a picture has, however few tokens stand for them. words
    `(sum of l, e)`: text j at `offsets[j]..offsets[j+1]`, `offsets (m+1,)` int64 on the host. owner `(m,)`
    int64: the picture of each text; none: text i belongs to picture i.
    """

    patches: Tensor
    words: Tensor
    offsets: Tensor
    count: int
    shares: Tensor | None = None
    owner: Tensor | None = None


class Loss(nn.Module, ABC):
    """Two batches of unit vectors to one number; constructed with `temperature`, τ at the start.

    Its parameters are learnt with the head's; those with fewer than two axes never decay. Further options of
    a fit (`bias`, `positives`, `global_weight`, `local_weight`) are given to a loss that has an argument of
    that name.
    """

    temperature: nn.Parameter
    compares_tokens: ClassVar[bool] = False
    """Whether `of_tokens` has something to add."""

    def of_tokens(self, tokens: TokenPairs) -> Tensor:
        """What a loss that compares tokens adds to `forward`, a scalar; asked where `compares_tokens`."""
        return tokens.words.new_zeros(())

    @abstractmethod
    def forward(self, image: Tensor, text: Tensor, pairing: Pairing | None = None) -> Tensor:
        """The loss of `(b, e)` and `(m, e)`, a scalar; without a pairing row i belongs to row i."""

    @abstractmethod
    def clamp(self) -> None:
        """Bring the parameters back into their ranges, in place; called after every update."""

    def tau(self) -> float:
        """τ now."""
        return self.temperature.item()


def build_loss(name: str, *, temperature: float | None = None, **options: Any) -> Loss:
    """The loss of this name; options that are None are left to it.

    `UnknownNameError` for a name in no table, `UsageError` for an option that the loss has not.
    """
    made = loss_type(name)
    given = {key: value for key, value in options.items() if value is not None}
    if temperature is not None:
        given["temperature"] = temperature
    known = inspect.signature(made).parameters
    for key in given:
        if key not in known:
            raise UsageError(f"the loss {name!r} has no option {key!r}", allowed=", ".join(known))
    return made(**given)


def loss_type(name: str) -> type[Loss]:
    """The class of this name; `UnknownNameError` for a name in no table."""
    found = LOSSES.load(name)
    if not (isinstance(found, type) and issubclass(found, Loss)):
        raise UsageError(f"{name!r} is not a loss", allowed="a subclass of Loss")
    return found
