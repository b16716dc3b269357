"""The best k of a long stream for many queries, exactly, in one reading, at about the cost of the products.

A product in float32, or in bfloat16 where the processor multiplies that faster, only rules out, by its error
bound (see `index.exact` and `_Tile`); what it cannot rule out is scored exactly at once (`index.grid`), and
kept where that reaches the bar: the k-th best so far, or what a sample and the part of the stream that was
seen foretell of it, so that few rows enter that will not stay. The stream is read in an order in which what
was seen is always spread over all of it; where that foretold too much, the queries are searched again.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from embedstore.errors import UsageError
from embedstore.index.grid import GRID, grid_scores
from embedstore.index.products import full_precision, parts, slack_between

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from embedstore.shapes import AnyArray, Float32Array, FloatArray, IntArray

__all__ = ["BLOCK", "GRID", "Best", "Vectors", "best_of", "merged"]

BLOCK = 1024
_TILE = 1024
_SAMPLE, _SAMPLE_BLOCKS = 32768, 16
_SAMPLE_SHARE = 128
_RUN, _RUNS = 8192, 64
_LEVELS = 4
_LEAST_ROOM = 1024
_LEAST_QUERIES = 32
_LENGTH = 1.0 + 1e-5
_TINY = 1e-30
_SCORES = 1 << 22


class Vectors(Protocol):
    """A stream that can be read at any place: unit vectors `(b, e)` float32 of these positions.

    A position without a direction gives NaN. The same position always gives the same vector.
    """

    def __call__(self, positions: IntArray) -> Float32Array:
        """Read them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best n of each query: `positions (q, n)`, ascending in each row, and `scores (q, n)` float64."""

    positions: IntArray
    scores: FloatArray


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
    (`q · (k + 1024)` · 12 for k under 2048), and the scores of 1024 rows.
    """
    if k < 1:
        raise UsageError("k must be at least 1", found=k)
    if not 1 <= block < 2**24:
        raise UsageError("a block has at least one row", found=block, allowed="1 to 2^24 - 1")
    unit = np.ascontiguousarray(queries, dtype=np.float32)
    search = _Search(unit, vectors, count, min(k, max(count, 1)), block=block, device=device)
    with full_precision(), _threads(len(unit), threads) as cut:
        found = search.best(cut, search.foretold(), on_progress or (lambda _: None))
        again = np.flatnonzero(found.misled())
        if len(again):
            redone = search.of(again).best([slice(0, len(again))], None, lambda _: None)
            found.positions[again], found.scores[again] = redone.positions, redone.scores
    return Best(positions=found.positions[:, : found.width], scores=found.scores[:, : found.width])


def merged(shards: list[Best], k: int) -> Best:
    """The best k of streams that follow each other, positions counted on, from the best of each."""
    positions = np.concatenate([shard.positions for shard in shards], axis=1)
    scores = np.concatenate([shard.scores for shard in shards], axis=1)
    if positions.shape[1] <= k:
        return Best(positions=positions, scores=scores)
    found = Best(
        positions=np.empty((len(scores), k), positions.dtype), scores=np.empty((len(scores), k), np.float64)
    )
    for query in range(len(scores)):
        found.positions[query], found.scores[query] = _best(positions[query], scores[query], k)
    return found


@dataclass(slots=True, kw_only=True)
class _Heaps:
    """What is kept: of query r `filled[r]` positions, in the order they were seen, and their scores.

    `told (q,)` is the highest bar that was foretold, `bar (q,)` what a row has to reach, `width` how many are
    asked for.
    """

    positions: IntArray
    scores: FloatArray
    filled: IntArray
    told: FloatArray
    bar: FloatArray
    k: int
    width: int

    def part(self, rows: slice) -> _Heaps:
        """Those of some queries, in the same memory."""
        return _Heaps(
            positions=self.positions[rows],
            scores=self.scores[rows],
            filled=self.filled[rows],
            told=self.told[rows],
            bar=self.bar[rows],
            k=self.k,
            width=self.width,
        )

    def add(self, counts: IntArray, positions: AnyArray, scores: FloatArray) -> None:
        """Behind what each query has; never more positions a query than there is room beside k."""
        for query in np.flatnonzero(self.filled + counts > self.scores.shape[1]).tolist():
            self.cut(query)
        lines, first = np.arange(len(counts)), np.cumsum(counts) - counts
        slots = np.arange(len(scores)) + np.repeat(lines * self.scores.shape[1] + self.filled - first, counts)
        # Whole rows of an array in C order: the flat view is of the same memory.
        self.positions.reshape(-1)[slots] = positions
        self.scores.reshape(-1)[slots] = scores
        self.filled += counts

    def cut(self, query: int, *, order: bool = False) -> None:
        """Keep the best k of a query, and let the last of them be its bar; put in `order` of position."""
        have = int(self.filled[query])
        positions, scores = self.positions[query, :have], self.scores[query, :have]
        if have > self.k:
            positions, scores = _best(positions, scores, self.k)
        if order:
            places = np.argsort(positions, kind="stable")
            positions, scores = positions[places], scores[places]
        self.filled[query] = len(scores)
        self.positions[query, : len(scores)], self.scores[query, : len(scores)] = positions, scores
        if len(scores) == self.k:
            self.bar[query] = max(self.bar[query], scores.min())

    def foretell(self, share: float) -> None:
        """Raise the bars to what, after this share of the stream, more than k of all are likely to reach."""
        rank = _likely(self.k * share)
        for part in parts(len(self.filled), max(1, _SCORES // self.scores.shape[1])):
            wide = int(self.filled[part].max())
            if rank <= min(wide, self.k):
                empty = np.arange(wide) >= self.filled[part, None]
                seen = np.where(empty, -np.inf, self.scores[part, :wide])
                self.told[part] = np.maximum(
                    self.told[part], np.partition(seen, wide - rank, axis=1)[:, wide - rank]
                )
        np.maximum(self.bar, self.told, out=self.bar)

    def misled(self) -> AnyArray:
        """Which queries may have lost rows to a bar that was foretold too high, when all is cut."""
        last = self.scores[:, : self.width].min(axis=1, initial=np.inf)
        wrong: AnyArray = (self.filled < self.width) | (last < self.told)
        return wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tile:
    """Some vectors in the forms that are needed of them.

    `product` is float32 or bfloat16. `off` bounds the length of the difference of any row between the two: a
    product of bfloat16 vectors is that of the float32 ones but for |q - q'| |v| + |q'| |v - v'| (Cauchy and
    Schwarz), the rounding of its sum in float32, and the rounding of the result to bfloat16.
    """

    start: int
    product: Tensor
    off: float
    exact: Tensor


class _Room:
    """Memory for a tile."""

    def __init__(self, shape: tuple[int, int], device: str, *, narrow: bool) -> None:
        self._exact = torch.empty(shape, dtype=torch.float64, device=device)
        self._narrow = torch.empty(shape, dtype=torch.bfloat16) if narrow else None
        self._lost = torch.empty(shape if narrow else (0, 0))

    def tile(self, start: int, vectors: Tensor) -> _Tile:
        """The forms of some vectors `(b, e)` float32."""
        count, off = len(vectors), 0.0
        product, exact = vectors, self._exact[:count].copy_(vectors)
        if self._narrow is not None:
            product = self._narrow[:count].copy_(vectors)
            off = distance(vectors, product, self._lost[:count])
        return _Tile(start=start, product=product, off=off, exact=exact)


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
        rank = _likely(share)
        best = torch.full((len(self.queries), rank), -torch.inf)
        on_device = torch.from_numpy(self.queries).to(self.device)
        for start in starts:
            seen = torch.from_numpy(self.vectors(np.arange(start, start + each)))
            scores = (on_device @ seen.to(self.device).T).nan_to_num_(nan=-torch.inf).cpu()
            both = torch.cat([best, scores], dim=1)
            best = torch.topk(both, rank, dim=1, sorted=False).values
        return best.amin(dim=1).double().numpy() - 2 * self.slack

    def best(self, cut: list[slice], bar: FloatArray | None, told: Callable[[int], None]) -> _Heaps:
        """Run the whole stream past the queries, each share of them on a thread of its own.

        Without a `bar` nothing is foretold, neither before nor on the way, so that nobody can be misled.
        """
        heaps = self._heaps(bar)
        screens = [_Screen(self, part, heaps.part(part)) for part in cut]
        valid = seen = 0
        with ThreadPoolExecutor(len(screens)) as pool:
            # One share needs no other thread than this one.
            each = pool.map if len(screens) > 1 else map
            for level in _levels(self.count, self.block):
                for tile in _ahead(self._tiles(level)):
                    for _ in each(lambda s, t=tile: s.add(t), screens):
                        pass
                    valid += len(tile.exact) - int(tile.exact[:, 0].isnan().sum())
                    seen += len(tile.exact)
                    told(seen)
                if bar is not None:
                    heaps.foretell(seen / self.count)
            for _ in each(_Screen.end, screens):
                pass
        heaps.width = min(self.k, valid)
        return heaps

    def _heaps(self, bar: FloatArray | None) -> _Heaps:
        count = len(self.queries)
        shape = (count, min(self.k + max(self.k // 2, _LEAST_ROOM, _TILE), self.count))
        return _Heaps(
            positions=np.empty(shape, np.uint32 if self.count < 2**32 else np.int64),
            scores=np.empty(shape, np.float64),
            filled=np.zeros(count, np.int64),
            told=np.full(count, -np.inf) if bar is None else bar,
            bar=np.full(count, -np.inf) if bar is None else bar.copy(),
            k=self.k,
            width=self.k,
        )

    def _tiles(self, blocks: list[slice]) -> Iterator[_Tile]:
        """The blocks in tiles; the memory of a tile is used again by the one after the next."""
        shape = (min(_TILE, self.block, self.count), self.queries.shape[1])
        rooms = cycle([_Room(shape, self.device, narrow=self.narrow) for _ in range(2)])
        for part in blocks:
            block = torch.from_numpy(self.vectors(np.arange(part.start, part.stop))).to(self.device)
            for piece in parts(len(block), _TILE):
                yield next(rooms).tile(part.start + piece.start, block[piece])


class _Screen:
    """Rules out, for some of the queries, what a product can rule out, and scores the rest."""

    def __init__(self, search: _Search, part: slice, heaps: _Heaps) -> None:
        self._heaps, self._narrow = heaps, search.narrow
        queries = torch.from_numpy(search.queries[part]).to(search.device)
        self._exact = queries.double()
        self._product, off = queries, 0.0
        if search.narrow:
            self._product = queries.to(torch.bfloat16)
            off = distance(queries, self._product, torch.empty_like(queries))
        self._slack, self._length = search.slack + off * _LENGTH, _LENGTH + off
        self._buffer: Tensor | None = None

    def add(self, tile: _Tile) -> None:
        """Keep of the tile what is above the bars."""
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

    def _candidates(self, tile: _Tile) -> IntArray:
        """Places in the flattened `(q, b)` that the product does not rule out, ascending."""
        scores = self._scores(tile)
        low = self._heaps.bar - (self._slack + tile.off * self._length)
        if not self._narrow:
            bars = torch.from_numpy(np.nextafter(low.astype(np.float32), np.float32(-np.inf))).to(
                scores.device
            )
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

    def _scores(self, tile: _Tile) -> Tensor:
        shape = (len(self._product), len(tile.product))
        if self._buffer is None or self._buffer.shape != shape:
            self._buffer = torch.empty(shape, device=tile.product.device, dtype=tile.product.dtype)
        return torch.mm(self._product, tile.product.T, out=self._buffer)


def fast_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16 products."""
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def distance(vectors: Tensor, others: Tensor, room: Tensor) -> float:
    """A bound on the distance of any row `(e,)` from the same row of the others; `room` is written over."""
    lost = room.copy_(others).sub_(vectors).numpy()
    longest = float(np.fmax.reduce(np.vecdot(lost, lost), initial=0.0))
    return longest**0.5 * (1 + vectors.shape[1] / 2**23) + 1e-18


def _best(positions: IntArray, scores: FloatArray, k: int) -> tuple[IntArray, FloatArray]:
    """The k best of more than k, of equal scores those of lower position; in the order given."""
    kth = np.partition(scores, len(scores) - k)[len(scores) - k]
    kept = scores > kth
    level = np.flatnonzero(scores == kth)
    need = k - int(np.count_nonzero(kept))
    if need < len(level):
        level = level[np.argpartition(positions[level], need)[:need]]
    kept[level] = True
    return positions[kept], scores[kept]


def _likely(share: float) -> int:
    """A number that a sample hardly ever exceeds where this is the mean: four deviations and some more."""
    return int(share + 4 * share**0.5 + 8)


def _levels(count: int, block: int) -> list[list[slice]]:
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


def _ahead(tiles: Iterator[_Tile]) -> Iterator[_Tile]:
    """The same; each is made while the one before it is worked on."""
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, tiles, None)
        while (tile := coming.result()) is not None:
            coming = reader.submit(next, tiles, None)
            yield tile


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
