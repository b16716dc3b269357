"""What a frozen encoder is: a card, a cheap per-sample preparation, and a batched forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, overload, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image
    from torch import Tensor

    from embedstore.documents import EncoderCard
    from embedstore.shapes import Float32Array, IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBatch:
    """Floating tensors on the encoder's device, detached.

    tokens `(b, t, d)`: patches only, row-major; prefix `(b, p, d)`: CLS first, then registers, or none;
    pooled `(b, w)`: the library's own image embedding, unnormalised. Definitions: docs/format.md.
    """

    tokens: Tensor
    prefix: Tensor | None
    pooled: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class TextBatch:
    """Floating tensors on the encoder's device, detached.

    tokens `(b, l, d)`; mask `(b, l)` bool, True for real tokens, which stand first in each row;
    pooled `(b, w)`: the library's own sentence embedding.
    """

    tokens: Tensor
    mask: Tensor
    pooled: Tensor


@runtime_checkable
class ImageEncoder(Protocol):
    """A frozen image encoder. `prepare` is thread-safe and runs no model."""

    @property
    def card(self) -> EncoderCard:
        """The identity of the features this encoder makes."""

    def prepare(self, picture: Image) -> Float32Array:
        """An RGB picture to the pixels the model sees, `(3, h, w)` float32, by the checkpoint's processor."""

    def encode(self, pixels: Sequence[Float32Array]) -> ImageBatch:
        """Prepared pictures to tokens; a row depends on its own picture only, up to rounding."""


@runtime_checkable
class TextEncoder(Protocol):
    """A frozen text encoder. `prepare` runs no model."""

    @property
    def card(self) -> EncoderCard:
        """The identity of the features this encoder makes."""

    def prepare(self, texts: Sequence[str]) -> tuple[list[IntArray], list[bool]]:
        """Texts to token ids `(l,)` int64, cut at the card's `max_length`, and whether each text was cut."""

    def encode(self, ids: Sequence[IntArray]) -> TextBatch:
        """Prepared texts to tokens, padded to the longest of the batch."""


@runtime_checkable
class ManyImages(ImageEncoder, Protocol):
    """An image encoder that makes several features in one forward pass, e.g. of several layers.

    `card` and `encode` are those of the first.
    """

    @property
    def cards(self) -> tuple[EncoderCard, ...]:
        """The identity of each feature."""

    def encode_all(self, pixels: Sequence[Float32Array]) -> tuple[ImageBatch, ...]:
        """What `encode` gives, for each of `cards`."""


@runtime_checkable
class ManyTexts(TextEncoder, Protocol):
    """A text encoder that makes several features in one forward pass; `card` and `encode` of the first."""

    @property
    def cards(self) -> tuple[EncoderCard, ...]:
        """The identity of each feature."""

    def encode_all(self, ids: Sequence[IntArray]) -> tuple[TextBatch, ...]:
        """What `encode` gives, for each of `cards`."""


@runtime_checkable
class Limited(TextEncoder, Protocol):
    """A text encoder that gives its twin with another limit and the same weights in memory."""

    def limited(self, max_length: int) -> TextEncoder:
        """The encoder that cuts at `max_length` tokens; `UsageError` where the model cannot take them."""


@runtime_checkable
class RowPreparation(Protocol):
    """A `prepare` that makes several views of each picture, which depend on the picture's row."""

    count: int

    def __call__(self, picture: Image) -> Float32Array:
        """As of an `ImageEncoder`: the picture itself, `(3, h, w)`."""

    def of_row(self, picture: Image, row_id: str) -> Float32Array:
        """All views of the picture of a row, `(count, 3, h, w)` float32."""


def cards_of(encoder: ImageEncoder | TextEncoder) -> tuple[EncoderCard, ...]:
    """The card of each feature that an encoder makes: one, unless it says that it makes several."""
    return encoder.cards if isinstance(encoder, (ManyImages, ManyTexts)) else (encoder.card,)


@overload
def encode_all(encoder: ImageEncoder, inputs: Sequence[Float32Array]) -> tuple[ImageBatch, ...]: ...
@overload
def encode_all(encoder: TextEncoder, inputs: Sequence[IntArray]) -> tuple[TextBatch, ...]: ...
def encode_all(encoder, inputs):  # type: ignore[no-untyped-def]  # the overloads say it
    """One forward pass: a batch for each card of `cards_of(encoder)`, in their order."""
    if isinstance(encoder, (ManyImages, ManyTexts)):
        return encoder.encode_all(inputs)
    return (encoder.encode(inputs),)
