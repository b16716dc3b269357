"""Which rows a balanced collection takes: rarest concept first, each its best rows that nobody took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np

from embedstore.errors import UsageError

if TYPE_CHECKING:
    from embedstore.index.screen import Best
    from embedstore.shapes import AnyArray, FloatArray, IntArray

Order: TypeAlias = Literal["rare-first", "common-first", "random"]
ORDERS: tuple[Order, ...] = get_args(Order)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """Rows `(n,)` that were taken, in the order of taking, with concept, rank from 1 and score of each.

    `commonality (c,)`: mean of the kept scores; `order (c,)`: concepts as they were visited; `taken (c,)`.
    """

    rows: IntArray
    concepts: IntArray
    ranks: IntArray
    scores: FloatArray
    commonality: FloatArray
    order: IntArray
    taken: IntArray


def balanced(
    best: Best,
    *,
    per_concept: int,
    order: Order = "rare-first",
    floor: float | None = None,
    samples: IntArray | None = None,
    groups: IntArray | None = None,
    cap: int | None = None,
    seed: int = 0,
) -> Collection:
    """Visit the concepts by rising commonality; each takes its `per_concept` best rows that are still free.

    Of equal commonality, and of equal score, the lower number goes first. `floor`: rows with a lower score
    are never taken, but count in the commonality. `samples (n,)`: of all rows of the pool, the sample that
    each belongs to: a sample is taken once, by the best of its rows. `groups (n,)`: at most `cap` rows of
    each group are taken in all. ALGORITHMS: freeze-align, LAION-CLASS-Collected.
    """
    if per_concept < 1:
        raise UsageError("at least one row a concept", where="--per-concept", found=per_concept)
    count = len(best.positions)
    commonality = best.scores.mean(axis=1) if best.scores.shape[1] else np.zeros(count)
    visits = _visits(commonality, order, seed)
    numbers = best.positions if samples is None else samples
    free = np.ones(int(numbers.max()) + 1 if numbers.size else 0, dtype=bool)
    left = None
    if groups is not None and cap is not None:
        left = np.full(int(groups.max(initial=-1)) + 1, cap, np.int64)
    rows, scores = [], []
    for concept in visits:
        positions, values = best.positions[concept].astype(np.int64), best.scores[concept]
        sample = positions if samples is None else samples[positions]
        good = free[sample] if floor is None else free[sample] & (values >= floor)
        positions, values = _first(
            positions[good], values[good], per_concept, samples=samples, groups=groups, left=left
        )
        free[positions if samples is None else samples[positions]] = False
        if left is not None and groups is not None:
            np.subtract.at(left, groups[positions], 1)
        rows.append(positions)
        scores.append(values)
    taken = np.zeros(count, np.int64)
    taken[visits] = [len(part) for part in rows]
    return Collection(
        rows=np.concatenate([np.empty(0, np.int64), *rows]),
        concepts=np.repeat(visits, [len(part) for part in rows]),
        ranks=np.concatenate([np.empty(0, np.int64), *(np.arange(1, len(part) + 1) for part in rows)]),
        scores=np.concatenate([np.empty(0), *scores]),
        commonality=commonality,
        order=visits,
        taken=taken,
    )


def _visits(commonality: FloatArray, order: Order, seed: int) -> IntArray:
    if order not in ORDERS:
        raise UsageError("unknown order", where="--order", found=order, allowed=", ".join(ORDERS))
    if order == "random":
        return np.random.default_rng(seed).permutation(len(commonality))
    return np.argsort(commonality if order == "rare-first" else -commonality, kind="stable")


def _first(
    positions: IntArray,
    scores: FloatArray,
    most: int,
    *,
    samples: IntArray | None,
    groups: IntArray | None,
    left: IntArray | None,
) -> tuple[IntArray, FloatArray]:
    """The best `most` rows, one a sample, and of each group no more than there is room left."""
    plain = samples is None and left is None
    if plain and len(scores) > 4 * most:
        # What is beyond the bar of the `most` cannot be among them, however many are equal.
        near = scores >= np.partition(scores, len(scores) - most)[len(scores) - most]
        positions, scores = positions[near], scores[near]
    order = np.argsort(-scores, kind="stable")
    positions, scores = positions[order], scores[order]
    if samples is not None:
        ahead = np.sort(np.unique(samples[positions], return_index=True)[1])
        positions, scores = positions[ahead], scores[ahead]
    if left is not None and groups is not None:
        own = groups[positions]
        fits = _place_in_group(own) < left[own]
        positions, scores = positions[fits], scores[fits]
    return positions[:most], scores[:most]


def _place_in_group(groups: IntArray) -> AnyArray:
    """How many of the same group stand before each."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    places = np.empty(len(groups), np.int64)
    places[order] = np.arange(len(groups)) - np.searchsorted(ordered, ordered)
    return places
