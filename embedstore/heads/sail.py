"""SAIL's head: a gated map of [CLS; mean patch], and one of the pooled text."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from embedstore.documents import SailOptions
from embedstore.heads.base import Head
from embedstore.heads.dropout import dropout
from embedstore.heads.image_inputs import cls_of, patch_mean
from embedstore.heads.precision import unit
from embedstore.heads.segments import Runs, masked
from embedstore.heads.text_sides import refuse_pooled_words

if TYPE_CHECKING:
    from embedstore.documents import HeadConfig


class GatedMap(nn.Module):
    """`W_3 (ReLU6(W_1 x̂ + b_1) · (W_2 x̂ + b_2)) + b_3`, x̂ the layer-normalised input after dropout.

    The hidden width is `expansion` times the input's. SAIL itself has no dropout: rate 0.
    """

    def __init__(self, width_in: int, width_out: int, *, expansion: int, dropout: float) -> None:
        super().__init__()
        hidden = expansion * width_in
        self.norm = nn.LayerNorm(width_in)
        self.gate, self.value = nn.Linear(width_in, hidden), nn.Linear(width_in, hidden)
        self.out = nn.Linear(hidden, width_out)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """`(…, d)` in any floating type to `(…, e)`."""
        x = dropout(self.norm(x.to(self.norm.weight.dtype)), self.dropout if self.training else 0.0)
        y: Tensor = self.out(functional.relu6(self.gate(x)) * self.value(x))
        return y


class SailHead(Head):
    """`v = normalize(G_image([CLS; mean patch]))`, `u = normalize(G_text(pooled))`, G as in `GatedMap`.

    The pooled image embedding stands in for CLS where an encoder has none. With `text_pooling` 'mean' the
    mean of the text tokens stands in for the encoder's pooled embedding.
    Source: SAIL (CVPR 2025), "Assessing and Learning Alignment of Unimodal Vision and Language Models".
    """

    options_type = SailOptions
    reads: ClassVar[frozenset[str] | None] = frozenset()
    needs_tokens = frozenset({"images"})
    text_pooling = "pooled"

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        options: SailOptions = self.options_of(config.options)
        self.config = config
        self.image, self.text = (
            GatedMap(width, config.width, expansion=options.expansion, dropout=config.dropout)
            for width in (config.image_cls_width + config.image_width, config.text_width)
        )

    @property
    def _dtype(self) -> torch.dtype:
        return self.image.norm.weight.dtype

    def embed_image(
        self,
        tokens: Tensor,
        prefix: Tensor | None = None,
        pooled: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """`tokens (b, t, d)`; `prefix (b, p, d)`, CLS first, or `pooled (b, w)`; to unit vectors `(b, e)`."""
        cls = cls_of(prefix, pooled, self.config).to(self._dtype)
        both = torch.cat([cls, patch_mean(tokens.to(self._dtype), weights)], dim=-1)
        return unit(self.image(both))

    def embed_text(self, tokens: Tensor, offsets: Tensor) -> Tensor:
        """Packed `tokens (sum of l, d)`, `offsets (b+1,)` int64 on the host, to unit vectors `(b, e)`."""
        means = Runs.from_offsets(offsets, tokens.device).mean(tokens.to(self._dtype))
        return unit(self.text(means))

    def embed_words(self, tokens: Tensor, offsets: Tensor) -> Tensor:
        """`normalize(G_text(token))` of every token, `(sum of l, e)`, where it reads their mean."""
        refuse_pooled_words(self.config)
        Runs.from_offsets(offsets)
        return unit(self.text(tokens))

    def embed_padded(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Padded `tokens (b, l, d)` with `mask (b, l)`, True where real, to unit vectors `(b, e)`."""
        means = patch_mean(tokens.to(self._dtype), masked(mask).weights)
        return unit(self.text(means))

    def embed_patches(
        self,
        tokens: Tensor,
        prefix: Tensor | None = None,
        pooled: Tensor | None = None,
        weights: Tensor | None = None,  # noqa: ARG002 - a patch is projected by itself
    ) -> Tensor:
        """`normalize(G_image([CLS; patch]))` of every patch, `(b, t, e)`."""
        cls = cls_of(prefix, pooled, self.config).to(self._dtype).unsqueeze(1)
        both = torch.cat([cls.expand(-1, tokens.shape[1], -1), tokens.to(self._dtype)], dim=-1)
        return unit(self.image(both))
