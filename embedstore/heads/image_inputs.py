"""What heads read of a picture besides its patches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedstore.errors import HeadError
from embedstore.heads.precision import full

if TYPE_CHECKING:
    from torch import Tensor

    from embedstore.documents import HeadConfig


def cls_of(prefix: Tensor | None, pooled: Tensor | None, config: HeadConfig) -> Tensor:
    """CLS `(b, w)`, the first prefix token, or pooled where the encoder has no CLS; else a `HeadError`."""
    found = prefix[:, 0] if prefix is not None and config.image_card.has_cls else pooled
    if found is None or found.shape[-1] != config.image_cls_width:
        raise HeadError(
            "no CLS or pooled embedding of the right width",
            where="image_cls",
            found=None if found is None else f"width {found.shape[-1]}",
            allowed=f"width {config.image_cls_width}",
        )
    return found


def patch_mean(tokens: Tensor, weights: Tensor | None) -> Tensor:
    """The mean `(b, d)` of `tokens (b, t, d)`, weighted by `weights (b, t)` where they are given."""
    if weights is None:
        return tokens.mean(dim=1)
    with full(tokens.device):
        return (weights.to(tokens.dtype).unsqueeze(1) @ tokens).squeeze(1)


def patches_of(config: HeadConfig) -> int | None:
    """How many patches the encoder makes of a picture, however few are stored; none: unknown."""
    grid = config.image_card.grid
    return None if grid is None else grid[0] * grid[1]
