"""The text side that several heads share: freeze-align's two projectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from embedstore.errors import HeadError
from embedstore.heads.base import Head
from embedstore.heads.precision import unit
from embedstore.heads.projectors import projector
from embedstore.heads.segments import Runs, masked

if TYPE_CHECKING:
    from torch import Tensor

    from embedstore.documents import HeadConfig
    from embedstore.heads.projectors import Projector
    from embedstore.heads.segments import Segments


class ProjectedText(Head):
    """`u = normalize(P_global(mean P_token(token)))`; the constructor of a subclass calls `make_text`.

    'identity' passes through, so the width that arrives must then be `make_text`'s. Where the text side
    reads the encoder's pooled embedding, that is the one token. Source: freeze-align, section 4.
    """

    config: HeadConfig
    text_token: Projector
    text_global: Projector

    def make_text(self, config: HeadConfig, *, width: int) -> None:
        """The two projectors, to the joint width; `HeadError` for widths that cannot meet."""
        refuse_other_width(config, width=width)
        rate, text_width = config.dropout, config.text_width
        self.text_token = projector(config.text_token, text_width, width, dropout=rate)
        arriving = text_width if config.text_token == "identity" else width
        self.text_global = projector(config.text_global, arriving, width, dropout=rate)

    def embed_text(self, tokens: Tensor, offsets: Tensor) -> Tensor:
        """Packed `tokens (sum of l, d)`, `offsets (b+1,)` int64 on the host, to unit vectors `(b, e)`."""
        return self._projected(tokens, Runs.from_offsets(offsets, tokens.device))

    def embed_padded(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Padded `tokens (b, l, d)` with `mask (b, l)`, True where real, to unit vectors `(b, e)`."""
        return self._projected(tokens.flatten(0, 1), masked(mask))

    def _projected(self, tokens: Tensor, segments: Segments) -> Tensor:
        return unit(self.text_global(self.text_token.mean(tokens, segments)))

    def embed_words(self, tokens: Tensor, offsets: Tensor) -> Tensor:
        """`normalize(P_global(P_token(token)))` of every token, `(sum of l, e)`."""
        refuse_pooled_words(self.config)
        Runs.from_offsets(offsets)
        projected: Tensor = self.text_token(tokens.to(self._text_dtype))
        return unit(self.text_global(projected))

    @property
    def _text_dtype(self) -> torch.dtype:
        """The type of the first weights that a token meets; float32 where it passes everything through."""
        sides = (self.text_token, self.text_global)
        return next((side.dtype for side in sides if any(True for _ in side.parameters())), torch.float32)


def refuse_pooled_words(config: HeadConfig) -> None:
    """`HeadError` where the text side reads the encoder's pooled embedding, which is no word."""
    if config.text_pooling == "pooled":
        raise HeadError(
            "a pooled text has no single words",
            found="text_pooling 'pooled'",
            allowed="mean",
            todo="fit with --text-pooling mean",
        )


def refuse_other_width(config: HeadConfig, *, width: int) -> None:
    """`HeadError` where the text side passes everything through and is not as wide as the joint space."""
    texts = (config.text_token, config.text_global)
    if texts == ("identity", "identity") and width != config.text_width:
        raise HeadError(
            "the joint width must be the text encoder's",
            found=f"width {width}, text tokens {config.text_width} wide, both text sides 'identity'",
            todo=f"take width {config.text_width}, or give the text side a projector",
        )
