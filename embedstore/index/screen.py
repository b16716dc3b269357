"""The best k of a long stream for many queries, exactly, at little more than the cost of the products.

A float32 product only rules out (see `index.exact` for its error bound): what it cannot rule out is kept with
its approximate score, cut back whenever its room is full, and scored exactly once, at the end, from a second
reading of those rows. A sample of the stream foretells the bar, so that few rows enter that will not stay;
where it foretold too much, the queries concerned are searched again without it.
"""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from embedstore.errors import UsageError
from embedstore.index.products import full_precision, parts, slack_between

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from embedstore.shapes import AnyArray, Float32Array, FloatArray, IntArray

BLOCK = 4096
GRID = 2.0**-32
_SUB = 1024
_SUBS_AT_ONCE = 256
_SAMPLE, _SAMPLE_BLOCKS = 32768, 16
_SAMPLE_SHARE = 32
_LEAST_ROOM = 1024
_LEAST_QUERIES = 32
_LENGTH = 1.0 + 1e-5


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

    A score is the float64 product of the two float32 vectors, rounded to a multiple of 2^-32, far above its
    rounding error and far below that of float32: so it is the same wherever it is computed, and equal scores
    go to the lower position, for any block, thread count and device. Where fewer than k positions have a
    direction there are so many. Memory: some `q · k` · 18 bytes, and the scores of one block.
    """
    if k < 1:
        raise UsageError("k must be at least 1", found=k)
    if not 1 <= block < 2**24:
        raise UsageError("a block has at least one row", found=block, allowed="1 to 2^24 - 1")
    unit = np.ascontiguousarray(queries, dtype=np.float32)
    search = _Search(unit, vectors, count, min(k, max(count, 1)), block=block, device=device)
    told = on_progress or (lambda _: None)
    with full_precision(), _threads(len(unit), threads) as cut:
        guess = search.foretold()
        screens = search.screened([(part, guess[part]) for part in cut], told)
        wrong = np.concatenate([screen.misled() for screen in screens])
        exact = [screen.exact_scores() for screen in screens]
        found = _joined(screens, exact, min(k, search.valid))
        if wrong.any():
            again = np.flatnonzero(wrong)
            redone = search.screened([(again, np.full(len(again), -np.inf))], lambda _: None)
            more = _joined(redone, [s.exact_scores() for s in redone], min(k, search.valid))
            found.positions[again], found.scores[again] = more.positions, more.scores
    return found


def merged(shards: list[Best], k: int) -> Best:
    """The best k of streams that follow each other, positions counted on, from the best of each."""
    positions = np.concatenate([shard.positions for shard in shards], axis=1)
    scores = np.concatenate([shard.scores for shard in shards], axis=1)
    if positions.shape[1] <= k:
        return Best(positions=positions, scores=scores)
    kept = np.array([np.flatnonzero(_best(line, k)) for line in scores]).reshape(len(scores), k)
    return Best(
        positions=np.take_along_axis(positions, kept, axis=1), scores=np.take_along_axis(scores, kept, axis=1)
    )


class _Search:
    """One stream and its queries."""

    def __init__(
        self, queries: Float32Array, vectors: Vectors, count: int, k: int, *, block: int, device: str
    ) -> None:
        self.queries, self.vectors, self.count, self.k = queries, vectors, count, k
        self.block, self.device = block, device
        self.valid = 0
        self.slack = slack_between(_LENGTH, _LENGTH, queries.shape[1]) + 2 * GRID

    def foretold(self) -> FloatArray:
        """A bar for each query that some more than k of all positions are likely to reach; -inf: none."""
        none = np.full(len(self.queries), -np.inf)
        each = min(_SAMPLE, self.count // _SAMPLE_SHARE) // _SAMPLE_BLOCKS
        if not each or self.count < 4 * self.k:
            return none
        starts = np.linspace(0, self.count - each, _SAMPLE_BLOCKS).astype(np.int64)
        share = self.k * each * _SAMPLE_BLOCKS / self.count
        rank = int(share + 4 * share**0.5 + 8)
        best = torch.full((len(self.queries), rank), -torch.inf)
        on_device = torch.from_numpy(self.queries).to(self.device)
        for start in starts:
            seen = torch.from_numpy(self.vectors(np.arange(start, start + each)))
            scores = (on_device @ seen.to(self.device).T).nan_to_num_(nan=-torch.inf).cpu()
            both = torch.cat([best, scores], dim=1)
            best = torch.topk(both, rank, dim=1, sorted=False).values
        return best.amin(dim=1).double().numpy() - 2 * self.slack

    def screened(
        self, shares: list[tuple[slice | IntArray, FloatArray]], told: Callable[[int], None]
    ) -> list[_Screen]:
        """Run the whole stream past some queries, each share of them on a thread of its own."""
        screens = [_Screen(self, self.queries[part], bar) for part, bar in shares]
        self.valid = 0
        with ThreadPoolExecutor(len(screens)) as pool:
            for start, vectors in _ahead(self.vectors, self.count, self.block):
                block = torch.from_numpy(vectors).to(self.device)
                for _ in pool.map(lambda s, at=start, b=block: s.add(at, b), screens):
                    pass
                self.valid += len(vectors) - int(np.isnan(vectors[:, 0]).sum())
                told(start + len(vectors))
        return screens


class _Screen:
    """What is left of a stream for some queries: `filled (q,)` positions, ascending, and their scores."""

    def __init__(self, search: _Search, queries: Float32Array, guess: FloatArray) -> None:
        self.search, self.k, self.slack = search, search.k, search.slack
        self._queries, self._wide = queries, torch.from_numpy(queries.astype(np.float64))
        self._on_device = torch.from_numpy(queries).to(search.device)
        self._room = max(self.k // 2, _LEAST_ROOM)
        shape = (len(queries), min(self.k + self._room, search.count))
        self.positions = np.empty(shape, np.uint32 if search.count < 2**32 else np.int64)
        self.scores = np.empty(shape, np.float32)
        self.filled = np.zeros(len(queries), np.int64)
        self._guess = guess
        self._bar = _down(guess)
        # The exact score of the k-th best so far, where so many are so near to it that nothing else helps.
        self._strict = np.full(len(queries), -np.inf)
        self._buffers: tuple[Tensor, Tensor] | None = None

    def add(self, start: int, block: Tensor) -> None:
        """Keep of the positions from `start` what a product with `block (b, e)` does not rule out."""
        wide = len(block)
        if self._buffers is None or self._buffers[0].shape[1] != wide:
            shape = (len(self._queries), wide)
            self._buffers = (
                torch.empty(shape, device=block.device),
                torch.empty(shape, dtype=torch.bool, device=block.device),
            )
        scores, enters = self._buffers
        torch.mm(self._on_device, block.T, out=scores)
        torch.ge(scores, torch.from_numpy(self._bar).to(block.device)[:, None], out=enters)
        flat, values = _picked(scores, enters)
        ends = np.searchsorted(flat, np.arange(len(self._queries) + 1) * wide)
        if np.isfinite(self._strict).any():
            flat, values, ends = self._refused(flat, values, ends, block)
        counts = np.diff(ends)
        over = np.flatnonzero(self.filled + counts > self.positions.shape[1])
        for query in over.tolist():
            own = slice(ends[query], ends[query + 1])
            self._cut(query, flat[own] - query * wide + start, values[own])
        if len(over):
            kept = np.repeat(~np.isin(np.arange(len(counts)), over), counts)
            flat, values = flat[kept], values[kept]
            counts[over] = 0
        first = np.cumsum(counts) - counts
        width = self.positions.shape[1]
        lines = np.arange(len(counts))
        slots = np.repeat(lines * width + self.filled - first, counts) + np.arange(len(flat))
        self.positions.reshape(-1)[slots] = flat - np.repeat(lines * wide - start, counts)
        self.scores.reshape(-1)[slots] = values
        self.filled += counts

    def misled(self) -> AnyArray:
        """Cut every query back; which of them lost rows to a bar that was foretold too high."""
        wrong = np.zeros(len(self.filled), dtype=bool)
        for query in range(len(self.filled)):
            self._cut(query, np.empty(0, np.int64), np.empty(0, np.float32))
            few = self.filled[query] < min(self.k, self.search.valid)
            wrong[query] = few or (self._sure(query) < self._guess[query])
        self.scores = np.empty((0, 0), np.float32)
        self._buffers = None
        return wrong

    def _sure(self, query: int) -> float:
        """No position with a lower product belongs to the best."""
        if self._guess[query] == -np.inf:
            return np.inf
        values = self.scores[query, : self.filled[query]]
        return float(np.partition(values, len(values) - self.k)[len(values) - self.k]) - 2 * self.slack

    def _cut(self, query: int, positions: IntArray, values: Float32Array) -> None:
        """Add some positions to a query's own and keep those that may be among the best."""
        have = self.filled[query]
        positions = np.concatenate([self.positions[query, :have], positions.astype(self.positions.dtype)])
        values = np.concatenate([self.scores[query, :have], values])
        if len(values) > self.k:
            kth = float(np.partition(values, len(values) - self.k)[len(values) - self.k])
            self._bar[query] = max(self._bar[query], float(_down(np.array(kth - 2 * self.slack))))
            kept = values >= self._bar[query]
            positions, values = positions[kept], values[kept]
            if len(values) > min(self.k + self._room // 2, self.positions.shape[1]):
                positions, values = self._resolved(query, positions)
        self.filled[query] = len(values)
        self.positions[query, : len(values)] = positions
        self.scores[query, : len(values)] = values

    def _resolved(self, query: int, positions: AnyArray) -> tuple[AnyArray, Float32Array]:
        """Of too many that are alike to a product, the best k by their exact scores."""
        exact = np.concatenate(
            [
                _pairs(self._wide[query : query + 1], self.search.vectors(positions[part].astype(np.int64)))
                for part in parts(len(positions), BLOCK)
            ]
        )
        order = np.argsort(-exact, kind="stable")[: self.k]
        self._strict[query] = exact[order[-1]]
        self._bar[query] = max(self._bar[query], float(_down(self._strict[query] - self.slack)))
        order.sort()
        return positions[order], exact[order].astype(np.float32)

    def _refused(
        self, flat: IntArray, values: Float32Array, ends: IntArray, block: Tensor
    ) -> tuple[IntArray, Float32Array, IntArray]:
        """What enters, without what comes after an exact bar that it does not exceed."""
        kept = np.ones(len(flat), dtype=bool)
        vectors = block.cpu().numpy()
        for query in np.flatnonzero(np.isfinite(self._strict) & (np.diff(ends) > 0)):
            own = slice(ends[query], ends[query + 1])
            exact = _pairs(self._wide[query : query + 1], vectors[flat[own] - query * len(vectors)])
            kept[own] = exact > self._strict[query]
        counts = np.add.reduceat(np.append(kept, 0), ends[:-1]) * (np.diff(ends) > 0)
        return flat[kept], values[kept], np.concatenate([[0], np.cumsum(counts)])

    def exact_scores(self) -> FloatArray:
        """The scores `(q, n)` of what is left, n the most of any query; read once more, in rising order."""
        count, width = self.search.count, int(self.filled.max(initial=0))
        exact = np.full((len(self.filled), width), -np.inf)
        for group in parts(count, _SUB * _SUBS_AT_ONCE):
            edges = np.append(np.arange(group.start, group.stop, _SUB), group.stop)
            places = np.array(
                [
                    np.searchsorted(self.positions[query, : self.filled[query]], edges)
                    for query in range(len(self.filled))
                ]
            ).reshape(len(self.filled), len(edges))
            for sub in range(len(edges) - 1):
                self._score(int(edges[sub]), int(edges[sub + 1]), places[:, sub], places[:, sub + 1], exact)
        return exact

    def _score(self, start: int, stop: int, first: IntArray, last: IntArray, exact: FloatArray) -> None:
        counts = last - first
        rows = np.append(0, np.cumsum(counts))
        if not rows[-1]:
            return
        lines = np.arange(len(counts))
        within = np.repeat(first - rows[:-1], counts) + np.arange(rows[-1])
        line = np.repeat(lines, counts)
        wanted = self.positions.reshape(-1)[line * self.positions.shape[1] + within].astype(np.int64)
        if rows[-1] * 4 < stop - start:
            needed, columns = np.unique(wanted, return_inverse=True)
        else:
            needed, columns = np.arange(start, stop), wanted - start
        found = _sampled(self._wide, self.search.vectors(needed), rows, columns)
        exact.reshape(-1)[line * exact.shape[1] + within] = found


def _joined(screens: list[_Screen], exact: list[FloatArray], k: int) -> Best:
    """The best k of each query, in the memory of what the screens have left."""
    total = sum(len(s.filled) for s in screens)
    found = Best(
        positions=np.empty((total, k), screens[0].positions.dtype), scores=np.empty((total, k), np.float64)
    )
    at = 0
    for number, screen in enumerate(screens):
        for query in range(len(screen.filled)):
            have = screen.filled[query]
            positions, scores = screen.positions[query, :have], exact[number][query, :have]
            if have > k:
                kept = _best(scores, k)
                positions, scores = positions[kept], scores[kept]
            found.positions[at, : len(scores)], found.scores[at, : len(scores)] = positions, scores
            at += 1
        exact[number] = np.empty((0, 0))
        screen.positions = screen.positions[:0]
    return found


def _best(scores: FloatArray, k: int) -> AnyArray:
    """Which k of more than k scores are best, equal ones by their place."""
    kth = np.partition(scores, len(scores) - k)[len(scores) - k]
    kept = scores > kth
    level = np.flatnonzero(scores == kth)
    kept[level[: k - int(kept.sum())]] = True
    found: AnyArray = kept
    return found


def _picked(scores: Tensor, enters: Tensor) -> tuple[IntArray, Float32Array]:
    """Places in the flattened scores that are set, ascending, and the scores there."""
    if scores.device.type == "cpu":
        flat = np.flatnonzero(enters.numpy())
        return flat, scores.numpy().reshape(-1)[flat]
    places = torch.nonzero(enters.flatten())[:, 0]
    return places.cpu().numpy(), scores.flatten()[places].cpu().numpy()


def _pairs(query: Tensor, vectors: Float32Array) -> FloatArray:
    """Exact scores `(b,)` of one query `(1, e)` float64."""
    return _sampled(query, vectors, np.array([0, len(vectors)]), np.arange(len(vectors)))


def _sampled(queries: Tensor, vectors: Float32Array, rows: IntArray, columns: IntArray) -> FloatArray:
    """Exact scores `(m,)` of query r with vectors `columns[rows[r] : rows[r + 1]]`."""
    wide = torch.from_numpy(vectors).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        places = torch.sparse_csr_tensor(
            torch.from_numpy(rows),
            torch.from_numpy(columns),
            torch.zeros(len(columns), dtype=torch.float64),
            size=(len(queries), len(vectors)),
            check_invariants=False,
        )
        found = torch.sparse.sampled_addmm(places, queries, wide.T, beta=0.0).values().numpy()
    rounded: FloatArray = np.round(found / GRID) * GRID
    return rounded


def _down(bar: FloatArray) -> Float32Array:
    """To float32 without ever raising a bar."""
    return np.nextafter(np.asarray(bar, np.float64).astype(np.float32), np.float32(-np.inf))


def _ahead(vectors: Vectors, count: int, block: int) -> Iterator[tuple[int, Float32Array]]:
    """Start and vectors of every block; the next one is read meanwhile."""
    cut = [np.arange(part.start, part.stop) for part in parts(count, block)]
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(vectors, cut[0]) if cut else None
        for number, positions in enumerate(cut):
            assert coming is not None  # noqa: S101 - told to the type checker
            found = coming.result()
            if number + 1 < len(cut):
                coming = reader.submit(vectors, cut[number + 1])
            yield int(positions[0]), found


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
