"""How a fit evaluates its head: in which precision, and whether compiled."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

from embedstore.fit.compiled import any_length, compiled
from embedstore.heads.precision import wide
from embedstore.heads.segments import Runs

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor

    from embedstore.documents import FitConfig
    from embedstore.heads.base import Head
    from embedstore.stream.batches import ImageTokens, TextTokens


def precision_of(config: FitConfig, device: torch.device) -> str:
    """`bfloat16` or `float32`: as configured, or by device: bfloat16 on a GPU that has it."""
    if config.precision != "auto":
        return config.precision
    half = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return "bfloat16" if half else "float32"


class Embedding:
    """A head's two sides for tokens on its device; embeddings are float32 or wider.

    With `bfloat16` the large products are taken in it, by autocast; weights and their gradients stay float32,
    and so do norms, statistics of batches and all of the second order. `compile`: the sides that the head
    lets be compiled are.
    """

    def __init__(self, head: Head, *, precision: str, device: torch.device, compile: bool = False) -> None:  # noqa: A002 - torch's own word
        self.precision, self._device = precision, device
        self.compiled = head.compiled_sides if compile else frozenset()
        self._image = compiled(head.embed_image) if "image" in self.compiled else head.embed_image
        self._text = compiled(head.embed_text) if "text" in self.compiled else head.embed_text

    def image(self, image: ImageTokens) -> Tensor:
        """Of pictures `(b, e)`."""
        with self.autocast():
            found = self._image(image.tokens, image.prefix, image.pooled, image.weights)
        return wide(found)

    def text(self, text: TextTokens) -> Tensor:
        """Of texts `(m, e)`."""
        if "text" in self.compiled:
            Runs.from_offsets(text.offsets)
            any_length(text.tokens, text.offsets)
        with self.autocast():
            found = self._text(text.tokens, text.offsets)
        return wide(found)

    def autocast(self) -> AbstractContextManager[object]:
        """The precision of everything that a head makes of tokens inside."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self._device.type, dtype=torch.bfloat16)
