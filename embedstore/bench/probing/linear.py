"""A linear probe: multinomial logistic regression, scikit-learn's, over a grid of strengths of L2."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from embedstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from embedstore.shapes import AnyArray, Float32Array, IntArray

# scikit-learn's C: the loss is C · (sum of cross entropies) + |W|² / 2, the intercept free.
STRENGTHS = tuple(float(10.0**power) for power in range(-2, 6))
ITERATIONS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearPath:
    """One fit for each strength: the classes of held-out and of test rows, `(s, h)` and `(s, q)` int64.

    unfinished: how many of the fits came to the last iteration.
    """

    held_out: IntArray
    test: IntArray
    unfinished: int


def linear_path(
    train: Float32Array,
    labels: IntArray,
    *,
    held_out: Float32Array,
    test: Float32Array,
    strengths: tuple[float, ...] = STRENGTHS,
) -> LinearPath:
    """Fit `train (n, w)` with `labels (n,)` for each strength, rising, each from where the one before ended.

    Sums are in float64. `UsageError` where there is only one class.
    """
    if len(np.unique(labels)) < 2:
        raise UsageError("a linear probe needs images of at least two classes", found=np.unique(labels))
    rows, others = train.astype(np.float64), [held_out.astype(np.float64), test.astype(np.float64)]
    model = LogisticRegression(max_iter=ITERATIONS, warm_start=True)
    found: list[list[AnyArray]] = []
    unfinished = 0
    for strength in strengths:
        model.set_params(C=strength)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", ConvergenceWarning)
            model.fit(rows, labels)
        unfinished += any(issubclass(w.category, ConvergenceWarning) for w in told)
        found.append([model.predict(part) if len(part) else np.empty(0, np.int64) for part in others])
    of_held_out, of_test = (np.stack(part).astype(np.int64) for part in zip(*found, strict=True))
    return LinearPath(held_out=of_held_out, test=of_test, unfinished=unfinished)


def hold_out(labels: IntArray, *, share: float, seed: int) -> AnyArray:
    """Which rows `(n,)` bool are held out: a share of each class, drawn by the seed; of a single row none."""
    found = np.zeros(len(labels), dtype=bool)
    for rows in _shuffled(labels, seed):
        count = round(share * len(rows)) if len(rows) > 1 else 0
        found[rows[: max(count, int(len(rows) > 1))]] = True
    return found


def few_shots(labels: IntArray, shots: int, *, seed: int | Sequence[int]) -> IntArray:
    """Rows, rising, with `shots` of each class or as many as it has, drawn by the seed or seeds together."""
    return np.sort(np.concatenate([rows[:shots] for rows in _shuffled(labels, seed)]))


def _shuffled(labels: IntArray, seed: int | Sequence[int]) -> Iterator[IntArray]:
    """The rows of each class that is there, in an order drawn by the seed."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    for label in np.unique(labels):
        yield order[labels[order] == label]
