"""freeze-align's head: four switchable projectors between two frozen encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional

from embedstore.errors import HeadError
from embedstore.heads.base import Head
from embedstore.heads.projectors import projector
from embedstore.heads.segments import Grid, Runs

if TYPE_CHECKING:
    from torch import Tensor

    from embedstore.documents import HeadConfig


class TokenHead(Head):
    """`v = normalize(mean P_local(patch) + P_cls(CLS))`, `u = normalize(P_global(mean P_token(token)))`.

    P_local is shared by all patches; P_cls reads CLS (the first prefix token), or the pooled embedding where
    the encoder has no CLS. An image side named 'identity' is left out of the sum; on the text side identity
    passes through, so the joint width must then equal the width that arrives. With max pooling the largest
    value of each channel over the patches stands in place of their mean.
    `HeadError` for both image sides 'identity' and for widths that cannot meet.
    Source: freeze-align, sections 3 and 4, Table 1.
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        check_sides(config)
        self.config = config
        e, rate, text_width = config.width, config.dropout, config.text_width
        self.image_local = projector(config.image_local, config.image_width, e, dropout=rate)
        self.image_cls = projector(config.image_cls, config.image_cls_width, e, dropout=rate)
        self.text_token = projector(config.text_token, text_width, e, dropout=rate)
        arriving = text_width if config.text_token == "identity" else e
        self.text_global = projector(config.text_global, arriving, e, dropout=rate)

    def embed_image(
        self,
        tokens: Tensor,
        prefix: Tensor | None = None,
        pooled: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """`tokens (b, t, d)`; `prefix (b, p, d)`, CLS first, or `pooled (b, w)`; to unit vectors `(b, e)`.

        The mean over tokens is weighted by `weights (b, t)` where they are given; the maximum is not.
        """
        parts = []
        if self.config.image_local != "identity":
            parts.append(self._local(tokens, weights))
        if self.config.image_cls != "identity":
            parts.append(self.image_cls(self._cls(prefix, pooled).to(self.image_cls.dtype)))
        return functional.normalize(sum(parts[1:], parts[0]), dim=-1)

    def embed_text(self, tokens: Tensor, offsets: Tensor) -> Tensor:
        """Packed `tokens (sum of l, d)`, `offsets (b+1,)` int64 on the host, to unit vectors `(b, e)`."""
        runs = Runs.from_offsets(offsets, tokens.device)
        return functional.normalize(self.text_global(self.text_token.mean(tokens, runs)), dim=-1)

    def _local(self, tokens: Tensor, weights: Tensor | None) -> Tensor:
        grid = Grid(tokens.shape[0], tokens.shape[1], weights)
        flat = tokens.flatten(0, 1)
        if self.config.image_pooling == "mean":
            return self.image_local.mean(flat, grid)
        return grid.max(self.image_local(flat.to(self.image_local.dtype)))

    def _cls(self, prefix: Tensor | None, pooled: Tensor | None) -> Tensor:
        found = prefix[:, 0] if prefix is not None else pooled
        if found is None or found.shape[-1] != self.config.image_cls_width:
            raise HeadError(
                "no CLS or pooled embedding of the right width",
                where="image_cls",
                found=None if found is None else f"width {found.shape[-1]}",
                allowed=f"width {self.config.image_cls_width}",
            )
        return found


def check_sides(config: HeadConfig) -> None:
    """Refuse a combination of sides from which no joint space comes."""
    if config.image_local == "identity" and config.image_cls == "identity":
        raise HeadError(
            "nothing is left of the image",
            found="image_local and image_cls are both 'identity'",
            todo="make one of them token, mlp or linear: 'identity' leaves that side out of the image's sum",
        )
    texts = (config.text_token, config.text_global)
    if texts == ("identity", "identity") and config.width != config.text_width:
        raise HeadError(
            "the joint width must be the text encoder's",
            found=f"width {config.width}, text tokens {config.text_width} wide, both text sides 'identity'",
            todo=f"take width {config.text_width}, or give the text side a projector",
        )
