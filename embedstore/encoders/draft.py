"""Image encoders that are shown JPEG pictures decoded at a part of their size: `?draft=EDGE` in a spec.

The encoder is then shown other pixels, so it stands in its card, first in the processor's resize rule.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from embedstore.encoders.base import cards_of, encode_all
from embedstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

    from embedstore.documents import EncoderCard
    from embedstore.encoders.base import ImageBatch, ImageEncoder
    from embedstore.shapes import Float32Array

_RULE = re.compile(r"jpeg-draft=([0-9]+),")


def draft_edge(card: EncoderCard) -> int:
    """The least side in pixels that a card lets a JPEG picture be decoded to; 0: pictures as they are."""
    rule = None if card.processor is None else _RULE.match(card.processor.resize)
    return int(rule[1]) if rule else 0


class DraftedImages:
    """An encoder over such pictures; it differs from the plain one by its cards alone."""

    def __init__(self, encoder: ImageEncoder, least: int) -> None:
        self._encoder = encoder
        self.cards = tuple(_drafted(card, least) for card in cards_of(encoder))

    @property
    def card(self) -> EncoderCard:
        """The card of the first feature."""
        return self.cards[0]

    @property
    def preparation(self) -> Any:
        """As of the plain encoder."""
        return getattr(self._encoder, "preparation", None)

    def prepare(self, picture: Image) -> Float32Array:
        """As of the plain encoder; the picture was decoded small already."""
        return self._encoder.prepare(picture)

    def encode(self, pixels: Sequence[Float32Array]) -> ImageBatch:
        """As of the plain encoder."""
        return self._encoder.encode(pixels)

    def encode_all(self, pixels: Sequence[Float32Array]) -> tuple[ImageBatch, ...]:
        """As of the plain encoder."""
        return encode_all(self._encoder, pixels)


def _drafted(card: EncoderCard, least: int) -> EncoderCard:
    processor = card.processor
    if processor is None:
        raise UsageError("?draft= is for encoders of pictures", found=card.model)
    needed = max(*processor.size, *map(int, re.findall(r"[0-9]+", processor.resize)), 1)
    if least < needed:
        raise UsageError(
            "?draft= would show the model pictures that are enlarged",
            found=least,
            allowed=f"{needed} or more, {2 * needed} to be close to the plain features",
        )
    rule = f"jpeg-draft={least},{processor.resize}"
    return card.model_copy(update={"processor": processor.model_copy(update={"resize": rule})})
