"""freeze-align's head: four switchable projectors between two frozen encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedstore.errors import HeadError
from embedstore.heads.base import Head
from embedstore.heads.image_inputs import cls_of
from embedstore.heads.precision import unit
from embedstore.heads.projectors import projector
from embedstore.heads.segments import Grid
from embedstore.heads.text_sides import ProjectedText, refuse_other_width

if TYPE_CHECKING:
    from torch import Tensor

    from embedstore.documents import HeadConfig


class TokenHead(ProjectedText):
    """`v = normalize(mean P_local(patch) + P_cls(CLS))`, `u = normalize(P_global(mean P_token(token)))`.

    P_local is shared by all patches; P_cls reads CLS (the first prefix token), or the pooled embedding where
    the encoder has no CLS. An image side named 'identity' is left out of the sum; on the text side identity
    passes through, so the joint width must then equal the width that arrives. With max pooling the largest
    value of each channel over the patches stands in place of their mean. Where the text side reads the
    encoder's pooled embedding, that is the one token.
    `HeadError` for both image sides 'identity' and for widths that cannot meet.
    Source: freeze-align, sections 3 and 4, Table 1.
    """

    reads = frozenset(Head.SIDES)

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        check_sides(config)
        self.config = config
        e, rate = config.width, config.dropout
        self.image_local = projector(config.image_local, config.image_width, e, dropout=rate)
        self.image_cls = projector(config.image_cls, config.image_cls_width, e, dropout=rate)
        self.make_text(config, width=e)

    def embed_image(
        self,
        tokens: Tensor,
        prefix: Tensor | None = None,
        pooled: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """`tokens (b, t, d)`; `prefix (b, p, d)`, CLS first, or `pooled (b, w)`; to unit vectors `(b, e)`.

        The mean over tokens is weighted by `weights (b, t)` where they are given; the maximum is not, but
        leaves out tokens of weight 0.
        """
        parts = []
        if self.config.image_local != "identity":
            parts.append(self._local(tokens, weights))
        if self.config.image_cls != "identity":
            parts.append(self._cls(prefix, pooled))
        return unit(sum(parts[1:], parts[0]))

    def embed_patches(
        self,
        tokens: Tensor,
        prefix: Tensor | None = None,
        pooled: Tensor | None = None,
        weights: Tensor | None = None,  # noqa: ARG002 - a patch is projected by itself
    ) -> Tensor:
        """`normalize(P_local(patch) + P_cls(CLS))` of every patch, `(b, t, e)`; no P_cls if 'identity'."""
        if self.config.image_local == "identity":
            raise HeadError(
                "this head reads no patches", found="image_local 'identity'", allowed="token, mlp or linear"
            )
        local: Tensor = self.image_local(tokens.to(self.image_local.dtype))
        if self.config.image_cls != "identity":
            local = local + self._cls(prefix, pooled).unsqueeze(1)
        return unit(local)

    def _local(self, tokens: Tensor, weights: Tensor | None) -> Tensor:
        grid = Grid(tokens.shape[0], tokens.shape[1], weights)
        flat = tokens.flatten(0, 1)
        if self.config.image_pooling == "mean":
            return self.image_local.mean(flat, grid)
        return grid.max(self.image_local(flat.to(self.image_local.dtype)))

    def _cls(self, prefix: Tensor | None, pooled: Tensor | None) -> Tensor:
        found: Tensor = self.image_cls(cls_of(prefix, pooled, self.config).to(self.image_cls.dtype))
        return found


def check_sides(config: HeadConfig) -> None:
    """Refuse a combination of sides from which no joint space comes."""
    if config.image_local == "identity" and config.image_cls == "identity":
        raise HeadError(
            "nothing is left of the image",
            found="image_local and image_cls are both 'identity'",
            todo="make one of them token, mlp or linear: 'identity' leaves that side out of the image's sum",
        )
    refuse_other_width(config, width=config.width)
