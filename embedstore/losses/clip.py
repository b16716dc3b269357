"""The symmetric contrastive loss with a learnable, clamped temperature."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from embedstore.errors import UsageError
from embedstore.losses.base import Loss
from embedstore.losses.blocks import Negatives, negative_lse

if TYPE_CHECKING:
    from embedstore.losses.base import Pairing

TEMPERATURE_RANGE = (0.001, 0.5)
PLAIN_LOGITS = 4096 * 4096

Averaging: TypeAlias = Literal["mean", "apart", "any"]


def clip_loss(image: Tensor, text: Tensor, temperature: Tensor | float) -> Tensor:
    """Mean of both directions' cross entropy over `v·uᵀ/τ`; row i of one side belongs to row i of the other.

    `image`, `text` `(b, e)`, l2-normalised, one floating dtype; returns a scalar of that dtype.
    Source: freeze-align, section 4 (the loss of CLIP).
    """
    logits = image @ text.T / temperature
    pairs = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, pairs) + functional.cross_entropy(logits.T, pairs)) / 2


def contrastive(
    image: Tensor,
    text: Tensor,
    temperature: Tensor | float,
    *,
    pairing: Pairing | None = None,
    positives: Averaging = "mean",
    rows: int | None = None,
) -> Tensor:
    """`clip_loss` in blocks of `rows` pictures, for any pairing of `image (b, e)` and `text (m, e)`.

    A text's direction is its cross entropy over the pictures. A picture's direction with the positives P:
    `mean`, the mean over p of `-log(e^p / (Σ_P + Σ_negatives))` (SupCon's L_out); `apart`, the same with p
    alone beside the negatives; `any`, `-log(Σ_P / (Σ_P + Σ_negatives))` (MIL-NCE). Every picture counts the
    same, and in it every caption. With one caption a picture the three are one. Pairs that `pairing` strikes
    are left out of both sums. Source: docs/losses.md.
    """
    scale = 1 / torch.as_tensor(temperature, dtype=image.dtype, device=image.device)
    to_texts, to_pictures = negative_lse(image, text, scale, Negatives.of(image, text, pairing, rows))
    if pairing is None:
        right = torch.linalg.vecdot(image, text) * scale
        return (functional.softplus(to_texts - right) + functional.softplus(to_pictures - right)).mean() / 2
    owner = pairing.owner
    right = (image[owner] * text).sum(1) * scale
    share = 1 / (torch.bincount(owner, minlength=len(image))[owner] * len(image))
    of_texts = (functional.softplus(to_pictures - right) * share).sum()
    if positives == "apart":
        of_pictures = (functional.softplus(to_texts[owner] - right) * share).sum()
    else:
        own = _lse_of(right, owner, len(image))
        if positives == "any":
            of_pictures = functional.softplus(to_texts - own).mean()
        else:
            of_pictures = ((torch.logaddexp(to_texts, own)[owner] - right) * share).sum()
    return (of_texts + of_pictures) / 2


def _lse_of(x: Tensor, owner: Tensor, count: int) -> Tensor:
    """Log of the sum of exponents of the values of each owner, `(count,)`."""
    most = x.detach().new_full((count,), -torch.inf).scatter_reduce(0, owner, x.detach(), "amax")
    return most + x.new_zeros(count).index_add(0, owner, (x - most[owner]).exp()).log()


class ClipLoss(Loss):
    """`clip_loss` with τ as a parameter: never decayed, clamped to `TEMPERATURE_RANGE` at every use.

    `temperature` is τ at the start; outside the range a `UsageError`. Above `PLAIN_LOGITS` logits, and for
    any pairing but row by row, it is `contrastive`: equal to 1e-5, and no matrix of logits is held.
    """

    def __init__(self, *, temperature: float = 0.07, positives: Averaging = "mean") -> None:
        super().__init__()
        low, high = TEMPERATURE_RANGE
        if not low <= temperature <= high:
            raise UsageError(
                "bad temperature", where="temperature", found=temperature, allowed=f"{low} to {high}"
            )
        if positives not in get_args(Averaging):
            raise UsageError("unknown averaging of positives", found=positives, allowed="mean, apart, any")
        self.temperature = nn.Parameter(torch.tensor(float(temperature)))
        self.positives: Averaging = positives

    @torch.no_grad()
    def clamp(self) -> None:
        """Bring τ back into its range. In place, so that the optimiser goes on from the clamped value."""
        self.temperature.clamp_(*TEMPERATURE_RANGE)

    def forward(self, image: Tensor, text: Tensor, pairing: Pairing | None = None) -> Tensor:
        """The loss of `(b, e)` normalised embeddings, a scalar."""
        self.clamp()
        if pairing is None and len(image) * len(text) <= PLAIN_LOGITS:
            return clip_loss(image, text, self.temperature)
        return contrastive(image, text, self.temperature, pairing=pairing, positives=self.positives)
