"""Averages over languages that are measured on the same images, with their intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedstore.bench.figures import RECALL_AT
from embedstore.documents import Figure
from embedstore.metrics.accuracy import class_recall
from embedstore.metrics.intervals import class_average_interval, mean_interval, shared_mean_interval
from embedstore.metrics.recall import hits

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from embedstore.shapes import FloatArray, IntArray

AVERAGE, WITHOUT_ENGLISH, ENGLISH = "average", "average-without-en", "en"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Queries of one language: the image that each is about `(q,)`, a row, and its rank `(q,)`."""

    units: IntArray
    ranks: IntArray


def averaged_languages(languages: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Averages that papers report -> their languages: all of two or more, and all but English of three."""
    every = tuple(languages)
    others = tuple(language for language in every if language != ENGLISH)
    found = {AVERAGE: every, WITHOUT_ENGLISH: others if len(others) < len(every) else ()}
    return {name: chosen for name, chosen in found.items() if len(chosen) > 1}


def average_of_ranks(tallies: Sequence[Tally], *, seed: int) -> dict[str, Figure]:
    """recall@1, 5 and 10, each the mean over languages; intervals draw images, with all their queries."""
    images = np.unique(np.concatenate([tally.units for tally in tallies]))
    places = [np.searchsorted(images, tally.units) for tally in tallies]
    counts = np.stack([np.bincount(at, minlength=len(images)) for at in places], axis=1)
    found = {}
    for k in RECALL_AT:
        right = [hits(tally.ranks, k) for tally in tallies]
        sums = np.zeros(counts.shape)
        for part, (at, of) in enumerate(zip(places, right, strict=True)):
            sums[:, part] = np.bincount(at, weights=of, minlength=len(images))
        low, high = shared_mean_interval(sums, counts, seed=seed)
        found[f"recall@{k}"] = Figure(value=float(np.mean([of.mean() for of in right])), low=low, high=high)
    return found


def average_of_classes(ranks: Sequence[IntArray], labels: IntArray, *, seed: int) -> dict[str, Figure]:
    """The mean of each share over the languages: ranks `(n,)` each, of the same images."""
    found = {}
    for k in (1, 5):
        share = _shares(ranks, k)
        low, high = mean_interval(share, seed=seed)
        found[f"top-{k}"] = Figure(value=float(share.mean()), low=low, high=high)
    right = _shares(ranks, 1)
    low, high = class_average_interval(right, labels, seed=seed)
    value = class_recall(right, labels, int(labels.max()) + 1).mean
    return found | {"mean-per-class": Figure(value=value, low=low, high=high)}


def mean_chance(
    of_languages: Sequence[Mapping[str, float]], metrics: Mapping[str, object]
) -> dict[str, float]:
    """The mean over languages of what random scores give, of each of `metrics`."""
    return {metric: float(np.mean([chance[metric] for chance in of_languages])) for metric in metrics}


def _shares(ranks: Sequence[IntArray], k: int) -> FloatArray:
    """In which share of the languages each image's own class is among the first k `(n,)`."""
    share: FloatArray = np.mean([hits(of, k) for of in ranks], axis=0)
    return share
