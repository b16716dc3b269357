"""The sigmoid loss: every picture with every text is one yes-or-no question."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from embedstore.errors import UsageError
from embedstore.losses.base import Loss
from embedstore.losses.blocks import Negatives, negative_softplus

if TYPE_CHECKING:
    from embedstore.losses.base import Pairing

Reduction: TypeAlias = Literal["mean", "sum"]
TEMPERATURE_RANGE = (0.01, 1.0)


def sigmoid_loss(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    pairing: Pairing | None = None,
    reduction: Reduction = "mean",
    rows: int | None = None,
) -> Tensor:
    """`-log σ(z (t v·u + b))` over every picture with every text, z = 1 for a pair and -1 for others.

    `image (b, e)`, `text (m, e)` l2-normalised; t is `scale`, b is `bias`; a scalar. `mean`: over all entries
    that count (SAIL). `sum`: over all, divided by the number of texts (SigLIP, open_clip). Every caption of a
    picture is a positive; what `pairing` strikes does not count. Evaluated in blocks of `rows` pictures.
    Source: Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023, equation 1.
    """
    negatives = Negatives.of(image, text, pairing, rows)
    total, count = negative_softplus(image, text, scale, bias, negatives)
    right = (image[negatives.owner] * text).sum(1) * scale + bias
    whole = total + functional.softplus(-right).sum()
    return whole / (count + len(text) if reduction == "mean" else len(text))


class SigmoidLoss(Loss):
    """`sigmoid_loss` with t' = log t = -log τ and b as parameters; neither decays.

    `temperature` is τ at the start (0.1, which is t' = log 10; SAIL's t' = log 20 is 0.05), clamped to
    `TEMPERATURE_RANGE` at every use; `bias` is b at the start.
    """

    reduction: ClassVar[Reduction] = "mean"

    def __init__(self, *, temperature: float = 0.1, bias: float = -10.0) -> None:
        super().__init__()
        low, high = TEMPERATURE_RANGE
        if not low <= temperature <= high:
            raise UsageError(
                "bad temperature", where="temperature", found=temperature, allowed=f"{low} to {high}"
            )
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    @torch.no_grad()
    def clamp(self) -> None:
        """Bring t' back into its range, in place."""
        low, high = TEMPERATURE_RANGE
        self.log_scale.clamp_(-math.log(high), -math.log(low))

    def tau(self) -> float:
        """τ = exp(-t') now."""
        return math.exp(-self.log_scale.item())

    def forward(self, image: Tensor, text: Tensor, pairing: Pairing | None = None) -> Tensor:
        """The loss of normalised embeddings, a scalar."""
        self.clamp()
        scale, bias = self.log_scale.exp().to(image.dtype), self.bias.to(image.dtype)
        return sigmoid_loss(image, text, scale, bias, pairing=pairing, reduction=self.reduction)


class SigmoidSumLoss(SigmoidLoss):
    """The same with the sum over all entries divided by the number of texts."""

    reduction: ClassVar[Reduction] = "sum"
