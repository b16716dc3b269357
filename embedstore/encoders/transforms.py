"""Pictures to pixels by a library's own torchvision transform, described in a card."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.encoders.hf_processor import MAX_RESIZED, Size
from embedstore.errors import UnreadableImage, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL.Image import Image

    from embedstore.documents import ProcessorCard
    from embedstore.shapes import Float32Array


class Transform:
    """A picture through `steps` (PIL to tensor `(3, h, w)`), which draw nothing at random. Thread-safe.

    `edge`: what the shorter side is resized to where the picture keeps its shape, else none.
    """

    def __init__(self, steps: Callable[[Image], Any], card: ProcessorCard, *, edge: int | None) -> None:
        self.card, self._steps, self._edge = card, steps, edge or 0

    def __call__(self, picture: Image) -> Float32Array:
        """An RGB picture to `(3, h, w)` float32; `UnreadableImage` where a resize would fill the memory."""
        refuse_thin(picture, self._edge)
        pixels = self._steps(picture if picture.mode == "RGB" else picture.convert("RGB"))
        return np.ascontiguousarray(pixels.numpy(), dtype=np.float32)


def refuse_thin(picture: Image, edge: int) -> None:
    """`UnreadableImage` for a line of pixels that would grow with the square of `edge`."""
    short, long = sorted(picture.size)
    resized = edge * edge * long // short
    if resized > MAX_RESIZED:
        raise UnreadableImage(
            f"too thin: {picture.width}×{picture.height} pixels with the shorter side at {edge} "
            f"would be {resized}, allowed {MAX_RESIZED}"
        )


def keep_ratio_rule(size: Size, target: Size) -> str:
    """The rule of a resize that keeps a picture's shape and fills `target`, in the words of a card."""
    return f"shortest_edge={target[0]}" if size[0] == size[1] else f"fill={target[0]}x{target[1]}"


def refuse_border(size: Size, patch: int | Size, *, where: str) -> None:
    """`UsageError` for a size of pictures of which patches would leave out a border."""
    high, wide = (patch, patch) if isinstance(patch, int) else patch
    if size[0] % high or size[1] % wide:
        raise UsageError(
            "the image size must be a multiple of the patch size, or the border is left out",
            where=where,
            found=f"{size[0]}x{size[1]} with patches of {high}x{wide}",
        )
