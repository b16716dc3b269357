"""What a head is, for the trainer, the bench and the fitted model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from torch import Tensor, nn

from embedstore.errors import HeadError
from embedstore.heads import HEADS

if TYPE_CHECKING:
    from embedstore.documents import HeadConfig


class Head(nn.Module, ABC):
    """Tokens of frozen encoders to unit vectors in a joint space.

    Constructed from one `HeadConfig`, which decides every size; a `HeadError` where it contradicts itself.
    Inputs are in their stored dtype, on the head's device, and get no gradient.
    """

    @abstractmethod
    def embed_image(
        self,
        tokens: Tensor,
        prefix: Tensor | None = None,
        pooled: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """`tokens (b, t, d)`; `prefix (b, p, d)`, CLS first, or `pooled (b, w)`; to `(b, e)`.

        `weights (b, t)`: the share of the picture that each token stands for, summing to 1; none: equal.
        """

    @abstractmethod
    def embed_text(self, tokens: Tensor, offsets: Tensor) -> Tensor:
        """Packed `tokens (sum of l, d)`, text i at `offsets[i]..offsets[i+1]`, to `(b, e)`.

        `offsets (b+1,)` int64 on the host; every text has at least one token.
        """


def build_head(config: HeadConfig) -> Head:
    """The head that `config` names, with fresh weights; `UnknownNameError` for a name in no table."""
    head = HEADS.load(config.head)(config)
    if not isinstance(head, Head):
        raise HeadError(
            f"{config.head!r} is not a head", found=type(head).__name__, allowed="a subclass of Head"
        )
    return head
