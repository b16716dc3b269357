"""From ranks to a report's figures, with intervals and chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedstore.documents import Figure
from embedstore.metrics import accuracy, intervals, recall

if TYPE_CHECKING:
    from embedstore.metrics.accuracy import ClassRecall
    from embedstore.shapes import FloatArray, IntArray

RECALL_AT = (1, 5, 10)


def share_figure(values: FloatArray, *, seed: int) -> Figure:
    """Mean of hits, or of any numbers, `(q,)` with its interval over the queries."""
    low, high = intervals.mean_interval(values, seed=seed)
    return Figure(value=float(values.mean()), low=low, high=high)


def retrieval_chance(counts: IntArray, n: int) -> dict[str, float]:
    """The same for random scores: `counts` positives of each query in a gallery of n."""
    chance = {f"recall@{k}": recall.chance_recall(counts, n, k) for k in RECALL_AT}
    return chance | {
        "median_rank": recall.chance_median_rank(counts, n),
        "mean_rank": recall.chance_mean_rank(counts, n),
    }


def class_figures(
    ranks: IntArray, labels: IntArray, classes: int, *, seed: int
) -> tuple[dict[str, Figure], ClassRecall]:
    """top-1, top-5 and mean-per-class of one split, and the recall of each class."""
    right = recall.hits(ranks, 1)
    found = accuracy.class_recall(right, labels, classes)
    low, high = intervals.class_mean_interval(found, seed=seed)
    figures = {
        "top-1": share_figure(right, seed=seed),
        "top-5": share_figure(recall.hits(ranks, 5), seed=seed),
        "mean-per-class": Figure(value=found.mean, low=low, high=high),
    }
    return figures, found


def class_chance(classes: int) -> dict[str, float]:
    """The same for random scores."""
    one = accuracy.chance_top_k(classes, 1)
    return {"top-1": one, "top-5": accuracy.chance_top_k(classes, 5), "mean-per-class": one}
