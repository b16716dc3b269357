"""Choosing the best rows of a large pool for many concepts, against the bare matrix products and two others.

The pool is synthetic: directions around a thousand centres, float16, in memory. Every side reads the same
pool, in blocks of the same size, with the same threads. The machine may be shared: ratios are of CPU time.
`curate_dedup.py` says what the rows on duplicates are.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import faiss
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from common import Row, main, seconds
from curate_dedup import dedup_rows
from store_data import anonymous_mb

from embedstore.curate.collecting import balanced
from embedstore.curate.pool import unit_vectors
from embedstore.index import screen
from embedstore.index.screen import BLOCK, best_of
from embedstore.index.tiles import fast_bfloat16

if TYPE_CHECKING:
    from collections.abc import Callable

    from embedstore.shapes import AnyArray, Float32Array, FloatArray, IntArray

WIDTH = 768
CENTRES = 1000
SCORED, SORTED = 4096, 65_536


def pool_of(rows: int, concepts: int) -> tuple[AnyArray, Float32Array]:
    """Float16 vectors `(rows, WIDTH)` around centres of unequal weight, and unit prototypes near some."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((CENTRES, WIDTH), np.float32)
    share = 1 / np.arange(1, CENTRES + 1)
    pool = np.empty((rows, WIDTH), np.float16)
    for start in range(0, rows, 1 << 16):
        part = slice(start, min(start + (1 << 16), rows))
        own = random.choice(CENTRES, size=part.stop - part.start, p=share / share.sum())
        pool[part] = centres[own] + 2 * random.standard_normal((len(own), WIDTH), np.float32)
    near = centres[random.integers(CENTRES, size=concepts)]
    return pool, unit_vectors(near + random.standard_normal((concepts, WIDTH), np.float32))


def collected(pool: AnyArray, concepts: Float32Array, keep: int, each: int) -> tuple[IntArray, FloatArray]:
    """Ours: the best of every concept, and the balanced choice among them."""
    best = best_of(concepts, lambda rows: unit_vectors(pool[rows[0] : rows[-1] + 1]), len(pool), keep)
    return balanced(best, per_concept=each).rows, best.scores


def products(pool: AnyArray, concepts: Float32Array) -> None:
    """The bare products of all blocks, from float16."""
    left, out = torch.from_numpy(concepts), None
    for start in range(0, len(pool), BLOCK):
        block = torch.from_numpy(pool[start : start + BLOCK]).float()
        out = torch.empty(len(left), len(block)) if out is None or out.shape[1] != len(block) else out
        torch.mm(left, block.T, out=out)


def published(pool: AnyArray, concepts: Float32Array, keep: int, each: int) -> int:
    """The published way, in its steps and block sizes, with `keep` for its 50,000 and a disk of this machine.

    All scores of 4,096 rows go to a file as int8. Then 65,536 rows at a time are read back, put behind the
    best so far, and sorted whole for every concept. At last the concepts take theirs, one row after another.
    """
    left = torch.from_numpy(concepts)
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for start in range(0, len(pool), SCORED):
            block = torch.from_numpy(unit_vectors(pool[start : start + SCORED]))
            files.append(Path(folder) / f"{start}.pt")
            torch.save((block @ left.T * 127).to(torch.int8), files[-1])
        best = torch.empty(0, len(left))
        rows = torch.empty(0, len(left), dtype=torch.int64)
        for number in range(0, len(files), SORTED // SCORED):
            read = torch.cat([torch.load(file) for file in files[number : number + SORTED // SCORED]])
            both = torch.cat([best, read.float() / 127])
            numbers = torch.arange(number * SCORED, number * SCORED + len(read))
            named = torch.cat([rows, numbers[:, None].expand(-1, len(left))])
            best, order = torch.sort(both, dim=0, descending=True)
            best, rows = best[:keep].clone(), named.gather(0, order[:keep])
    taken: set[int] = set()
    for concept in torch.argsort(best.mean(dim=0)).tolist():
        mine = [row for row in rows[:, concept].tolist() if row not in taken][:each]
        taken.update(mine)
    return len(taken)


def cpu(action: Callable[[], object]) -> tuple[float, float]:
    """Seconds of CPU time, of all threads, and of the clock."""
    before, start = time.process_time(), time.perf_counter()
    action()
    return time.process_time() - before, time.perf_counter() - start


def rounds(ours: Callable[[], object], reference: Callable[[], object], repeats: int) -> tuple[float, str]:
    """Ratio of CPU time, the median over rounds in turns; and that of the clock in words."""
    pairs = []
    for number in range(repeats):
        first, second = (ours, reference) if number % 2 == 0 else (reference, ours)
        a, b = cpu(first), cpu(second)
        pairs.append((a, b) if number % 2 == 0 else (b, a))
    of_cpu, of_clock = (statistics.median(a[i] / b[i] for a, b in pairs) for i in (0, 1))
    mine, theirs = (statistics.median(pair[i][0] for pair in pairs) for i in (0, 1))
    words = (
        f"CPU time: ours {seconds(mine)}, reference {seconds(theirs)}, median of {repeats}; "
        f"of the clock {of_clock:.3g}; {torch.get_num_threads()} threads"
    )
    return of_cpu, words


def peak_mb(action: Callable[[], object]) -> float:
    """The most anonymous memory, in MB, above what there was before."""
    before, seen, done = anonymous_mb(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            seen.append(anonymous_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        action()
    finally:
        done.set()
        watcher.join()
    return max(seen) - before


def measure(quick: bool) -> list[Row]:  # noqa: FBT001 - the one argument of every benchmark
    """All claims, at the sizes that `quick` chooses."""
    concepts, rows, keep, each = (500, 200_000, 2_500, 200) if quick else (2754, 2_000_000, 25_000, 2_000)
    pool, prototypes = pool_of(rows, concepts)
    size = f"{concepts} concepts x {WIDTH}, {rows} rows, K = {keep}"
    peaks: list[float] = []

    def ours() -> None:
        peaks.append(peak_mb(lambda: collected(pool, prototypes, keep, each)))

    ratio, words = rounds(ours, lambda: products(pool, prototypes), 3 if quick else 1)
    heaps = concepts * keep * 12 / 1e6
    return [
        Row(
            name="collect-vs-matmul",
            ratio=ratio,
            meaning="time ours/reference",
            reference="the bare blocked products in float32",
            detail=f"{size}; {'bfloat16' if fast_bfloat16() else 'float32'} rules out; {words}",
        ),
        Row(
            name="collect-memory",
            ratio=max(peaks) - heaps,
            meaning="MB",
            reference=f"heaps of 12 bytes an entry, {heaps:.0f} MB; the rest of the peak is given",
            detail=size,
        ),
        *_in_float32(pool, prototypes),
        _against_published(pool, prototypes),
        _against_faiss(pool, prototypes),
    ]


def _in_float32(pool: AnyArray, prototypes: Float32Array) -> list[Row]:
    """As on a processor without bfloat16 products, at the quick size."""
    if not fast_bfloat16():
        return []
    small, few = pool[:200_000], prototypes[:500]
    with patch.object(screen, "fast_bfloat16", lambda: False):
        ratio, words = rounds(lambda: collected(small, few, 2_500, 200), lambda: products(small, few), 3)
    return [
        Row(
            name="collect-vs-matmul-float32",
            ratio=ratio,
            meaning="time ours/reference",
            reference="the bare blocked products in float32",
            detail=f"500 concepts x {WIDTH}, 200000 rows, K = 2500; float32 rules out; {words}",
        )
    ]


def _against_published(pool: AnyArray, prototypes: Float32Array) -> Row:
    rows, concepts, keep, each = 200_000, 500, 2_500, 200
    small, few = pool[:rows], prototypes[:concepts]
    ratio, words = rounds(
        lambda: published(small, few, keep, each), lambda: collected(small, few, keep, each), 1
    )
    return Row(
        name="collect-vs-published",
        ratio=ratio,
        meaning="rate ours/reference",
        reference="all scores to disk as int8, 65,536 rows at a time sorted (in words: theirs first)",
        detail=f"{concepts} concepts x {WIDTH}, {rows} rows, K = {keep}; {words}",
    )


def _against_faiss(pool: AnyArray, prototypes: Float32Array) -> Row:
    rows, k = 200_000, 2_048
    wide = unit_vectors(pool[:rows])
    few = prototypes[:500]
    faiss.omp_set_num_threads(torch.get_num_threads())
    ratio, words = rounds(
        lambda: best_of(few, lambda at: wide[at[0] : at[-1] + 1], rows, k),
        lambda: faiss.knn(few, wide, k, metric=faiss.METRIC_INNER_PRODUCT),
        3,
    )
    return Row(
        name="topk-vs-faiss",
        ratio=ratio,
        meaning="time ours/reference",
        reference="faiss.knn, inner product",
        detail=f"{len(few)} queries x {WIDTH}, {rows} rows in float32, K = {k}; {words}",
    )


if __name__ == "__main__":
    main(lambda quick: [*measure(quick), *dedup_rows(quick=quick)], description=__doc__.splitlines()[0])
