"""What a head is, for the trainer, the bench and the fitted model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class Head(Protocol):
    """Tokens of frozen encoders to unit vectors in a joint space.

    Constructed from one `HeadConfig`, which decides every size; a `HeadError` where it contradicts itself.
    Inputs are in their stored dtype, on the head's device, and get no gradient.
    """

    def embed_image(
        self, tokens: Tensor, prefix: Tensor | None = None, pooled: Tensor | None = None
    ) -> Tensor:
        """`tokens (b, t, d)`; `prefix (b, p, d)`, CLS first, or `pooled (b, w)`; to `(b, e)`."""

    def embed_text(self, tokens: Tensor, offsets: Tensor) -> Tensor:
        """Packed `tokens (sum of l, d)`, text i at `offsets[i]..offsets[i+1]`, to `(b, e)`.

        `offsets (b+1,)` int64 on the host; every text has at least one token.
        """
