"""An exponential moving average of a head's weights."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from embedstore.heads.base import Head


class WeightAverage:
    """`average ← d · average + (1 − d) · weights` after every step n, d = min(decay, n / (n + 9)).

    The rising start keeps the random weights of the first step out of it. Buffers are taken as they are.
    """

    def __init__(self, head: Head, decay: float) -> None:
        self.head: Head = copy.deepcopy(head).requires_grad_(requires_grad=False).eval()
        self._decay, self.steps = decay, 0

    @torch.no_grad()
    def update(self, head: Head) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        decay = min(self._decay, self.steps / (self.steps + 9))
        for weight, new in zip(self.head.parameters(), head.parameters(), strict=True):
            weight.lerp_(new, 1 - decay)
        for buffer, now in zip(self.head.buffers(), head.buffers(), strict=True):
            buffer.copy_(now)
