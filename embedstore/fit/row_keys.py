"""Dropout that belongs to rows: the same in every pass, micro-batch and process in which a row comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from embedstore.fit.randomness import generators, seed_generators
from embedstore.heads.keyed import by_sample
from embedstore.stream.choice import counter_random

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor

    from embedstore.shapes import IntArray
    from embedstore.stream.batches import ImageTokens, TextTokens

_TEXTS = 1 << 40


class RowKeys:
    """Inside `image` or `text`, dropout is a function of (seed, epoch, row) and the place alone.

    Other randomness of a head comes from torch's default generator, set anew by the first row.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed, self._generators = seed, generators(device)

    def image(self, image: ImageTokens, epoch: int) -> AbstractContextManager[None]:
        """While these pictures are embedded."""
        lengths = torch.full((len(image.rows),), max(1, image.tokens.shape[1]))
        return self._by_row(image.rows, epoch, lengths)

    def text(self, text: TextTokens, epoch: int) -> AbstractContextManager[None]:
        """While these texts are embedded."""
        return self._by_row(text.rows + _TEXTS, epoch, text.offsets.diff())

    def _by_row(self, rows: IntArray, epoch: int, lengths: Tensor) -> AbstractContextManager[None]:
        keys = counter_random(self._seed, epoch, rows).view(np.int64)
        seed_generators(self._generators, int(keys[0]))
        return by_sample(torch.from_numpy(keys), lengths)
