"""The symmetric contrastive loss with a learnable, clamped temperature."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from embedstore.errors import UsageError
from embedstore.losses.base import Loss

TEMPERATURE_RANGE = (0.001, 0.5)


def clip_loss(image: Tensor, text: Tensor, temperature: Tensor | float) -> Tensor:
    """Mean of both directions' cross entropy over `v·uᵀ/τ`; row i of one side belongs to row i of the other.

    `image`, `text` `(b, e)`, l2-normalised, one floating dtype; returns a scalar of that dtype.
    Source: freeze-align, section 4 (the loss of CLIP).
    """
    logits = image @ text.T / temperature
    pairs = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, pairs) + functional.cross_entropy(logits.T, pairs)) / 2


class ClipLoss(Loss):
    """`clip_loss` with τ as a parameter: never decayed, clamped to `TEMPERATURE_RANGE` at every use.

    `temperature` is τ at the start; outside the range a `UsageError`.
    """

    def __init__(self, *, temperature: float = 0.07) -> None:
        super().__init__()
        low, high = TEMPERATURE_RANGE
        if not low <= temperature <= high:
            raise UsageError(
                "bad temperature", where="temperature", found=temperature, allowed=f"{low} to {high}"
            )
        self.temperature = nn.Parameter(torch.tensor(float(temperature)))

    @torch.no_grad()
    def clamp(self) -> None:
        """Bring τ back into its range. In place, so that the optimiser goes on from the clamped value."""
        self.temperature.clamp_(*TEMPERATURE_RANGE)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """The loss of `(b, e)` normalised embeddings, a scalar."""
        self.clamp()
        return clip_loss(image, text, self.temperature)
