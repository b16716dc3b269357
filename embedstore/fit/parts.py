"""The loss of joint embeddings that are made of parts: of each part by itself, weighted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.func import functional_call

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from embedstore.heads.base import Part
    from embedstore.losses.base import Loss


def loss_of_parts(loss: Loss, parts: Sequence[Part], image: Tensor, text: Tensor, **beside: Any) -> Tensor:
    """`Σ weight · loss(part of image, part of text)` of `(b, e)` and `(m, e)`; without parts the loss itself.

    One loss, so one temperature for all. `beside` is handed on to it. Source: DALIP, section 4 (its loss).
    """
    if not parts:
        whole: Tensor = loss(image, text, **beside)
        return whole
    # A loss clamps its parameters in place at every use, which the graph of an earlier use may not see.
    losses: list[Tensor] = [
        part.weight
        * functional_call(
            loss, {n: p.clone() for n, p in loss.named_parameters()}, (part.of(image), part.of(text)), beside
        )
        for part in parts
    ]
    return sum(losses[1:], losses[0])
