"""How many duplicate pairs SemDeDup compares, against every pair of a sample.

`dedup-recall`: a pool of unit vectors around power-law clusters in which a tenth are planted copies with a
cosine of 0.95 to 1 to their original, in a random order. It is clustered, and each row compared with the
rows of its four nearest clusters, as `embedstore curate dedup` does. The sample is of originals with
their copies, so that it holds pairs; the reference compares all of its rows with each other.
`dedup-recall-even` is the same where the pool has no clusters at all, the hardest case.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from common import Row, main, seconds

from embedstore.curate.dedup import EPS, PROBES
from embedstore.curate.greedy import greedy_twins
from embedstore.curate.semdedup import meet

if TYPE_CHECKING:
    from embedstore.shapes import Float32Array, IntArray

WIDTH = 384
COPIES = 10
SLICE = 1 << 16
_NOISE = 1.0


def planted_pool(count: int, *, centres: int, seed: int = 0) -> tuple[Float32Array, IntArray, IntArray]:
    """Unit vectors `(count, 384)`, and the rows of planted copies with those of their originals.

    Clusters are of power-law size; without centres the pool is even over the sphere.
    """
    random = np.random.default_rng(seed)
    place = random.permutation(count)
    copies, firsts = place[: count // COPIES], place[count // COPIES :]
    vectors = np.empty((count, WIDTH), np.float32)
    middle = random.standard_normal((max(1, centres), WIDTH), np.float32)
    share = 1 / np.arange(1, max(1, centres) + 1)
    for first in range(0, len(firsts), SLICE):
        part = firsts[first : first + SLICE]
        some = _NOISE * random.standard_normal((len(part), WIDTH), np.float32)
        if centres:
            some += middle[random.choice(centres, len(part), p=share / share.sum())]
        vectors[part] = some / np.linalg.norm(some, axis=1, keepdims=True)
    originals = random.choice(firsts, len(copies), replace=False)
    for first in range(0, len(copies), SLICE):
        own = vectors[originals[first : first + SLICE]]
        side = random.standard_normal(own.shape, np.float32)
        side -= own * np.einsum("ij,ij->i", side, own)[:, None]
        side /= np.linalg.norm(side, axis=1, keepdims=True)
        cosine = random.uniform(1 - EPS + 1e-4, 1, size=(len(own), 1)).astype(np.float32)
        vectors[copies[first : first + SLICE]] = cosine * own + np.sqrt(1 - cosine**2) * side
    return vectors, copies, originals


def dedup_rows(*, quick: bool) -> list[Row]:
    """Recall on clustered and on even pools; the time of the whole on the first."""
    count, sampled = (50_000, 10_000) if quick else (1_000_000, 50_000)
    return [
        _recall("dedup-recall", count, sampled, centres=count // 200),
        _recall("dedup-recall-even", count // 5, sampled // 5, centres=0),
    ]


def _recall(name: str, count: int, sampled: int, *, centres: int) -> Row:
    vectors, copies, originals = planted_pool(count, centres=centres)
    order = np.arange(count)
    start = time.perf_counter()
    met = meet(vectors, eps=EPS, probes=PROBES)
    clustered = time.perf_counter() - start
    twins = greedy_twins(vectors, order, 1 - EPS, clusters=met.clusters, visits=met.visits)
    took = time.perf_counter() - start
    half = sampled // 2
    sample = np.unique(np.concatenate([copies[:half], originals[:half]]))
    found, total = met.met_pairs(vectors, order, sample, sample)
    gone = int((twins.twin >= 0).sum())
    return Row(
        name=name,
        ratio=found / total,
        meaning="share of pairs",
        reference="every pair of a sample",
        detail=(
            f"{count} x {WIDTH}, {len(copies)} planted copies, {gone} dropped, {centres} centres; eps {EPS}, "
            f"{met.count} clusters, {PROBES} probes; {found} of {total} pairs of {len(sample)} sampled rows "
            f"met; clustering {seconds(clustered)}, with comparing {seconds(took)}, "
            f"{torch.get_num_threads()} threads"
        ),
    )


if __name__ == "__main__":
    main(lambda quick: dedup_rows(quick=quick), description=__doc__ or "")
