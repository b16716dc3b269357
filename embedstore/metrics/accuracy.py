"""Classification from scores: top-k accuracy and the mean of the classes' recalls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import UsageError

if TYPE_CHECKING:
    from embedstore.shapes import FloatArray, IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRecall:
    """Recall of each class `(c,)` float64, NaN where the class has no row, and its rows `(c,)` int64."""

    recall: FloatArray
    rows: IntArray

    @property
    def mean(self) -> float:
        """Mean over the classes that have rows; absent classes are left out, not counted as 0."""
        return float(self.recall[self.rows > 0].mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfusedPair:
    """`count` rows of class `label` were called class `predicted`."""

    label: int
    predicted: int
    count: int


def class_recall(right: FloatArray, labels: IntArray, classes: int) -> ClassRecall:
    """Share of each class's rows that are right. right `(n,)` of 0 and 1, labels `(n,)` in [0, classes)."""
    if not len(labels) or labels.min() < 0 or labels.max() >= classes:
        raise UsageError(
            "labels must be rows of the class list, and at least one", allowed=f"0 to {classes - 1}"
        )
    rows = np.bincount(labels, minlength=classes)
    found = np.bincount(labels, weights=right, minlength=classes)
    recall = np.divide(found, rows, out=np.full(classes, np.nan), where=rows > 0)
    return ClassRecall(recall=recall, rows=rows)


def confusion(predicted: IntArray, labels: IntArray, classes: int) -> IntArray:
    """How often a row of class i (first axis) was called j (second axis); `(c, c)` int64."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def confused_pairs(predicted: IntArray, labels: IntArray, most: int) -> tuple[ConfusedPair, ...]:
    """The `most` pairs of a class and another that its rows were called, by falling count, then by class.

    The same as the largest values of `confusion` off its diagonal, without the matrix. Both `(n,)`.
    """
    wrong = predicted != labels
    pairs, counts = np.unique(np.stack([labels[wrong], predicted[wrong]]), axis=1, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most]
    return tuple(
        ConfusedPair(label=int(pairs[0, k]), predicted=int(pairs[1, k]), count=int(counts[k])) for k in order
    )


def chance_top_k(classes: int, k: int) -> float:
    """Top-k accuracy of random scores over `classes` classes; for k = 1 also their mean per class."""
    return min(k, classes) / classes
