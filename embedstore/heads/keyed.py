"""Random bits that belong to a sample: the same in whatever batch, part of a batch or pass it comes."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from embedstore.errors import HeadError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

WORDS_AT_ONCE = 1 << 16


def _signed(x: int) -> int:
    return x - (1 << 64)


_STEP = _signed(0x9E3779B97F4A7C15)
_ROUNDS = ((30, _signed(0xBF58476D1CE4E5B9)), (27, _signed(0x94D049BB133111EB)), (31, 1))


@dataclass(slots=True)
class _Samples:
    keys: Tensor
    lengths: Tensor
    layers: int = 0

    def places(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The sample of each row of `x`, and the how-manieth of that sample it is."""
        samples, rows = len(self.keys), len(x)
        if rows == int(self.lengths.sum()):
            lengths = self.lengths
        elif rows % samples == 0:
            lengths = torch.full_like(self.lengths, rows // samples)
        else:
            raise HeadError(
                "dropout of rows that belong to no sample",
                found=f"{rows} rows of {samples} samples",
                allowed="one row a sample, one a token, or as many of each sample",
            )
        owner = torch.arange(samples).repeat_interleave(lengths)
        return owner, torch.arange(rows) - (lengths.cumsum(0) - lengths)[owner]


_SAMPLES: ContextVar[_Samples | None] = ContextVar("samples", default=None)


@contextmanager
def by_sample(keys: Tensor, lengths: Tensor) -> Iterator[None]:
    """Inside, dropout is a function of the sample's key, the layer and the place in the sample alone.

    `keys (b,)` and `lengths (b,)`, the tokens of each sample, int64 on the host. Rows of what is dropped are
    samples, tokens, or as many of each sample; layers are told apart by the order in which they draw.
    """
    before = _SAMPLES.set(_Samples(keys, lengths))
    try:
        yield
    finally:
        _SAMPLES.reset(before)


def bits(x: Tensor) -> Tensor | None:
    """16 random bits for each value of `x`, int16 of its shape; none outside `by_sample`."""
    samples = _SAMPLES.get()
    if samples is None or not x.numel():
        return None
    samples.layers += 1
    owner, nth = samples.places(x)
    of_layer = mixed_(samples.keys + torch.tensor(samples.layers) * _STEP)
    keys = mixed_(of_layer[owner] + nth * _STEP).to(x.device)
    width = x.numel() // len(x)
    steps = torch.arange(1, -(-width // 4) + 1, device=x.device) * _STEP
    words = torch.empty(len(x), len(steps), dtype=torch.int64, device=x.device)
    # A CPU takes a part at a time, so that the passes over it stay in its cache.
    few = max(1, WORDS_AT_ONCE // len(steps)) if x.device.type == "cpu" else len(x)
    for first in range(0, len(x), few):
        mixed_(torch.add(keys[first : first + few, None], steps, out=words[first : first + few]))
    return words.view(torch.int16)[:, :width].reshape(x.shape)


def mixed_(x: Tensor) -> Tensor:
    """SplitMix64's output function (Steele, Lea and Flood, OOPSLA 2014) of int64, in place."""
    for shift, factor in _ROUNDS:
        x ^= (x >> shift).bitwise_and_((1 << (64 - shift)) - 1)
        x *= factor
    return x
