"""A stream of vectors in tiles: in which order it is read, and what is made of each tile beforehand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from embedstore.index.products import parts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

TILE = 1024
_RUN, _RUNS = 8192, 64
_LEVELS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """Some vectors in the forms that are needed of them.

    `product` is float32 or bfloat16. `off` bounds the length of the difference of any row between the two: a
    product of bfloat16 vectors is that of the float32 ones but for |q - q'| |v| + |q'| |v - v'| (Cauchy and
    Schwarz), the rounding of its sum in float32, and the rounding of the result to bfloat16.
    """

    start: int
    product: Tensor
    off: float
    exact: Tensor


class Room:
    """Memory for a tile."""

    def __init__(self, shape: tuple[int, int], device: str, *, narrow: bool) -> None:
        self._exact = torch.empty(shape, dtype=torch.float64, device=device)
        self._narrow = torch.empty(shape, dtype=torch.bfloat16) if narrow else None
        self._lost = torch.empty(shape if narrow else (0, 0), dtype=torch.float32)

    def tile(self, start: int, vectors: Tensor) -> Tile:
        """The forms of some vectors `(b, e)` float32."""
        count, off = len(vectors), 0.0
        product, exact = vectors, self._exact[:count].copy_(vectors)
        if self._narrow is not None:
            product = self._narrow[:count].copy_(vectors)
            off = distance(vectors, product, self._lost[:count])
        return Tile(start=start, product=product, off=off, exact=exact)


def levels(count: int, block: int) -> list[list[slice]]:
    """The blocks of the stream: of runs of them first every 16th, then those half-way between, and so on."""
    run = block * max(1, min(_RUN, count // _RUNS) // block)
    runs = [list(_cut(part, block)) for part in parts(count, run)]
    step = 2**_LEVELS
    levels = [runs[::step]]
    while step > 1:
        levels.append(runs[step // 2 :: step])
        step //= 2
    return [[block for run in level for block in run] for level in levels if level]


def _cut(part: slice, block: int) -> Iterator[slice]:
    return (slice(at, min(at + block, part.stop)) for at in range(part.start, part.stop, block))


def ahead(tiles: Iterator[Tile]) -> Iterator[Tile]:
    """The same; each is made while the one before it is worked on."""
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, tiles, None)
        while (tile := coming.result()) is not None:
            coming = reader.submit(next, tiles, None)
            yield tile


def fast_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16 products."""
    able: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def distance(vectors: Tensor, others: Tensor, room: Tensor) -> float:
    """A bound on the distance of any row `(e,)` from the same row of the others; `room` is written over."""
    lost = room.copy_(others).sub_(vectors).numpy()
    longest: float = np.fmax.reduce(np.vecdot(lost, lost), initial=0.0).item()
    return float(longest**0.5) * (1 + vectors.shape[1] / 2**23) + 1e-18
