"""The best k of a long stream for many queries, exactly, in one reading, at about the cost of the products.

A product in float32, or in bfloat16 where the processor multiplies that faster, only rules out, by its error
bound (see `index.exact` and `Tile`); what it cannot rule out is scored exactly at once (`index.grid`), and
kept where that reaches the bar: the k-th best so far, or what a sample and the part of the stream that was
seen foretell of it, so that few rows enter that will not stay. The stream is read in an order in which what
was seen is always spread over all of it; where that foretold too much, the queries are searched again.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import cycle, pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from embedstore.errors import UsageError
from embedstore.index.grid import GRID, grid_scores
from embedstore.index.heaps import Best, Heaps, likely, merged
from embedstore.index.products import full_precision, parts, slack_between
from embedstore.index.tiles import TILE, Room, Tile, ahead, distance, fast_bfloat16, levels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from embedstore.shapes import Float32Array, FloatArray, IntArray

__all__ = ["BLOCK", "GRID", "Best", "Vectors", "best_of", "merged"]

BLOCK = 1024
_SAMPLE, _SAMPLE_BLOCKS = 32768, 16
_SAMPLE_SHARE = 128
_LEAST_ROOM = 1024
_LEAST_QUERIES = 32
_LENGTH = 1.0 + 1e-5
_TINY = 1e-30


class Vectors(Protocol):
    """A stream that can be read at any place: unit vectors `(b, e)` float32 of these positions.

    A position without a direction gives NaN. The same position always gives the same vector.
    """

    def __call__(self, positions: IntArray) -> Float32Array:
        """Read them."""


def best_of(
    queries: FloatArray,
    vectors: Vectors,
    count: int,
    k: int,
    *,
    block: int = BLOCK,
    threads: int | None = None,
    device: str = "cpu",
    on_progress: Callable[[int], None] | None = None,
) -> Best:
    """The k positions of `range(count)` with the highest cosine to each of `queries (q, e)`, unit vectors.

    A score is the exact product of the two float32 vectors, rounded to a multiple of 2^-28: a function of the
    two alone. Equal scores go to the lower position. So the result is the same for any block, thread count
    and device. Where fewer than k positions have a direction there are so many. Memory: `q · k` · 18 bytes
    (`q · (k + 1024)` · 12 for k under 2048), and the scores of 1024 rows. `UsageError` for k, `block` or
    `threads` under 1, and for a query that is longer than 1 or not finite, of which the bound does not hold.
    """
    if k < 1:
        raise UsageError("k must be at least 1", found=k)
    if threads is not None and threads < 1:
        raise UsageError("at least one thread", where="--threads", found=threads)
    if not 1 <= block < 2**24:
        raise UsageError("a block has at least one row", found=block, allowed="1 to 2^24 - 1")
    unit = np.ascontiguousarray(queries, dtype=np.float32)
    if not (np.vecdot(unit, unit) <= _LENGTH**2).all():
        raise UsageError("a query is no unit vector", todo="divide each by its length; none may be NaN")
    if device == "mps":
        device = "cpu"  # exact scores need float64, which Apple's GPUs do not have
    search = _Search(unit, vectors, count, min(k, max(count, 1)), block=block, device=device)
    with full_precision(), _threads(len(unit), threads) as cut:
        found = search.best(cut, search.foretold(), on_progress or (lambda _: None))
        again = np.flatnonzero(found.misled())
        if len(again):
            redone = search.of(again).best([slice(0, len(again))], None, lambda _: None)
            found.positions[again], found.scores[again] = redone.positions, redone.scores
    return Best(
        positions=found.positions[:, : found.width],
        scores=found.scores[:, : found.width],
        valid=found.valid,
    )


class _Search:
    """One stream and its queries."""

    def __init__(
        self, queries: Float32Array, vectors: Vectors, count: int, k: int, *, block: int, device: str
    ) -> None:
        self.queries, self.vectors, self.count, self.k = queries, vectors, count, k
        self.block, self.device = block, device
        self.narrow = device == "cpu" and fast_bfloat16()
        # What a product with a float32 sum may be off; twice, as bfloat16 instructions round in between.
        self.slack = 2 * slack_between(_LENGTH, _LENGTH, queries.shape[1]) + 2 * GRID

    def of(self, some: IntArray) -> _Search:
        """The same search for some of the queries."""
        return _Search(
            self.queries[some], self.vectors, self.count, self.k, block=self.block, device=self.device
        )

    def foretold(self) -> FloatArray | None:
        """A bar for each query that some more than k of all positions are likely to reach; none for few."""
        each = min(_SAMPLE, self.count // _SAMPLE_SHARE) // _SAMPLE_BLOCKS
        if not each or self.count < 4 * self.k:
            return None
        starts = np.linspace(0, self.count - each, _SAMPLE_BLOCKS).astype(np.int64)
        share = self.k * each * _SAMPLE_BLOCKS / self.count
        rank = likely(share)
        best = torch.full((len(self.queries), rank), -torch.inf, dtype=torch.float32)
        on_device = torch.from_numpy(self.queries).to(self.device)
        for start in starts:
            seen = torch.from_numpy(self.vectors(np.arange(start, start + each)))
            scores = (on_device @ seen.to(self.device).T).nan_to_num_(nan=-torch.inf).cpu()
            both = torch.cat([best, scores], dim=1)
            best = torch.topk(both, rank, dim=1, sorted=False).values
        return best.amin(dim=1).double().numpy() - 2 * self.slack

    def best(self, cut: list[slice], bar: FloatArray | None, told: Callable[[int], None]) -> Heaps:
        """Run the whole stream past the queries, each share of them on a thread of its own.

        Without a `bar` nothing is foretold, neither before nor on the way, so that nobody can be misled.
        """
        heaps = self._heaps(bar)
        screens = [_Screen(self, part, heaps.part(part)) for part in cut]
        valid = seen = 0
        with ThreadPoolExecutor(len(screens)) as pool:
            # One share needs no other thread than this one.
            each: Any = pool.map if len(screens) > 1 else map
            for level in levels(self.count, self.block):
                for tile in ahead(self._tiles(level)):
                    list(each(partial(_Screen.add, tile=tile), screens))
                    valid += len(tile.exact) - int(tile.exact[:, 0].isnan().sum())
                    seen += len(tile.exact)
                    told(seen)
                if bar is not None:
                    heaps.foretell(seen / self.count)
            list(each(_Screen.end, screens))
        heaps.width, heaps.valid = min(self.k, valid), valid
        return heaps

    def _heaps(self, bar: FloatArray | None) -> Heaps:
        count = len(self.queries)
        shape = (count, min(self.k + max(self.k // 2, _LEAST_ROOM, TILE), self.count))
        return Heaps(
            positions=np.empty(shape, np.uint32 if self.count < 2**32 else np.int64),
            scores=np.empty(shape, np.float64),
            filled=np.zeros(count, np.int64),
            told=np.full(count, -np.inf) if bar is None else bar,
            bar=np.full(count, -np.inf) if bar is None else bar.copy(),
            k=self.k,
            width=self.k,
        )

    def _tiles(self, blocks: list[slice]) -> Iterator[Tile]:
        """The blocks in tiles; the memory of a tile is used again by the one after the next."""
        shape = (min(TILE, self.block, self.count), self.queries.shape[1])
        rooms = cycle([Room(shape, self.device, narrow=self.narrow) for _ in range(2)])
        for part in blocks:
            block = torch.from_numpy(self.vectors(np.arange(part.start, part.stop))).to(self.device)
            for piece in parts(len(block), TILE):
                yield next(rooms).tile(part.start + piece.start, block[piece])


class _Screen:
    """Rules out, for some of the queries, what a product can rule out, and scores the rest."""

    def __init__(self, search: _Search, part: slice, heaps: Heaps) -> None:
        self._heaps, self._narrow = heaps, search.narrow
        queries = torch.from_numpy(search.queries[part]).to(search.device)
        self._exact = queries.double()
        self._product, off = queries, 0.0
        if search.narrow:
            self._product = queries.to(torch.bfloat16)
            off = distance(queries, self._product, torch.empty_like(queries))
        self._slack, self._length = search.slack + off * _LENGTH, _LENGTH + off
        self._buffer: Tensor | None = None

    def add(self, tile: Tile) -> None:
        """Keep of the tile what reaches the bars."""
        flat = self._candidates(tile)
        if not len(flat):
            return
        wide, lines = len(tile.exact), np.arange(len(self._exact) + 1)
        edges = np.searchsorted(flat, lines * wide)
        counts = np.diff(edges)
        columns = flat - np.repeat(lines[:-1] * wide, counts)
        scores = grid_scores(self._exact, tile.exact, edges, columns)
        good = scores >= np.repeat(self._heaps.bar, counts)
        kept = np.concatenate([[0], np.cumsum(good)])[edges]
        self._heaps.add(np.diff(kept), columns[good] + tile.start, scores[good])

    def end(self) -> None:
        """Cut every query back to what is asked."""
        for query in range(len(self._heaps.filled)):
            self._heaps.cut(query, order=True)

    def _candidates(self, tile: Tile) -> IntArray:
        """Places in the flattened `(q, b)` that the product does not rule out, ascending."""
        scores = self._scores(tile)
        low = self._heaps.bar - (self._slack + tile.off * self._length)
        if not self._narrow:
            down = np.nextafter(low.astype(np.float32), np.float32(-np.inf))
            bars = torch.from_numpy(down).to(scores.device)
        else:
            # Rounding keeps order: a product of at least `low` is at least `low` when both are rounded.
            low[np.abs(low) < _TINY] = -_TINY
            bars = torch.from_numpy(low).to(torch.bfloat16)
        if scores.device.type != "cpu":
            return torch.nonzero((scores >= bars[:, None]).flatten())[:, 0].cpu().numpy()
        if not self._narrow:
            return np.flatnonzero(scores.numpy() >= bars.numpy()[:, None])
        if float(low.min(initial=1.0)) > 0:
            # Positive bfloat16 numbers are ordered as their bits are; NaN comes through and is refused later.
            bits = scores.view(torch.int16).numpy()
            return np.flatnonzero(bits >= bars.view(torch.int16).numpy()[:, None])
        return np.flatnonzero((scores >= bars[:, None]).numpy())

    def _scores(self, tile: Tile) -> Tensor:
        shape = (len(self._product), len(tile.product))
        if self._buffer is None or self._buffer.shape != shape:
            self._buffer = torch.empty(shape, device=tile.product.device, dtype=tile.product.dtype)
        return torch.mm(self._product, tile.product.T, out=self._buffer)


@contextmanager
def _threads(queries: int, asked: int | None) -> Iterator[list[slice]]:
    """Cut the queries into a share a thread; products then take one thread each."""
    before = torch.get_num_threads()
    wanted = max(1, min(asked or before, queries // _LEAST_QUERIES))
    edges = np.linspace(0, queries, wanted + 1).astype(int)
    torch.set_num_threads(1 if wanted > 1 else asked or before)
    try:
        yield [slice(int(a), int(b)) for a, b in pairwise(edges)]
    finally:
        torch.set_num_threads(before)
