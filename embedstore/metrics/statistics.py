"""Figures as statistics of rows of outcomes, and their bootstrap: one draw of units serves every figure.

A unit (a picture) is what is drawn with replacement; it may have several rows, such as its captions, or one
for each class of a segmentation. Draws depend on the seed, the units and their strata only, so two samples of
the same units are resampled alike: their differences are a paired bootstrap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from embedstore.errors import UsageError
from embedstore.metrics.intervals import RESAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from embedstore.shapes import AnyArray, FloatArray, IntArray

Kind: TypeAlias = Literal["mean", "median", "ratio", "stratum-mean", "stratum-ratio"]
_RATIOS = ("ratio", "stratum-ratio")


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistic:
    """What a figure is of the rows; rows without the value (NaN) do not count.

    kind: `mean` and `median` over rows; `ratio`: sum of `value` ÷ sum of `over`; `stratum-mean` and
    `stratum-ratio`: the same within each stratum, then the mean over the strata that have something.
    at_most: each value counts as 1 where it is not above this, else as 0. without: a stratum left out.
    """

    kind: Kind
    value: str
    over: str | None = None
    at_most: float | None = None
    without: str | None = None

    def __post_init__(self) -> None:
        if (self.over is not None) != (self.kind in _RATIOS):
            raise UsageError("a ratio, and only a ratio, is over something", found=self)

    @property
    def stratified(self) -> bool:
        """Whether strata are averaged, each with its own number of units."""
        return self.kind == "stratum-mean"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Rows of outcomes: their units `(n,)` and strata `(n,)` as numbers from 0, and values `(n,)` by name.

    Numbers of units and strata are places in sorted lists of their names, -1 for no stratum: samples of the
    same names agree.
    """

    units: IntArray
    strata: IntArray
    stratum_names: tuple[str, ...]
    values: Mapping[str, AnyArray]

    @property
    def count(self) -> int:
        """How many units there are."""
        return int(self.units.max()) + 1 if len(self.units) else 0

    @property
    def unit_strata(self) -> IntArray:
        """The stratum of each unit `(u,)`; -1 for all where units lie in several, and are drawn as wholes."""
        first = np.full(self.count, -1, dtype=np.int64)
        first[self.units] = self.strata
        return first if np.array_equal(first[self.units], self.strata) else np.full_like(first, -1)


def values_of(sample: Sample, statistics: Mapping[str, Statistic]) -> dict[str, float]:
    """Each statistic of all rows, every unit once."""
    once = np.ones(sample.count)
    return {name: _function(sample, statistic)(once) for name, statistic in statistics.items()}


def resampled(
    sample: Sample, statistics: Mapping[str, Statistic], *, seed: int, resamples: int = RESAMPLES
) -> dict[str, FloatArray]:
    """Each statistic in every resample `(b,)`; NaN where a resample has nothing that it counts.

    Units are drawn with replacement from all; for a mean over strata, within their strata, each of which
    keeps its number of units. Raises `UsageError` for a sample without rows, or a value that it has not.
    """
    if not sample.count:
        raise UsageError("there is no row to resample")
    plain = {name: _function(sample, s) for name, s in statistics.items() if not s.stratified}
    within = {name: _function(sample, s) for name, s in statistics.items() if s.stratified}
    found = _drawn(plain, np.full(sample.count, -1, dtype=np.int64), seed, resamples)
    return found | _drawn(within, sample.unit_strata, seed, resamples)


def _drawn(
    functions: Mapping[str, Callable[[FloatArray], float]], strata: IntArray, seed: int, resamples: int
) -> dict[str, FloatArray]:
    found: dict[str, FloatArray] = {name: np.empty(resamples) for name in functions}
    if found:
        for b, weights in enumerate(_weights(strata, seed, resamples)):
            for name, function in functions.items():
                found[name][b] = function(weights)
    return found


def _weights(strata: IntArray, seed: int, resamples: int) -> Iterator[FloatArray]:
    """How often each unit `(u,)` is drawn, for each resample."""
    rng = np.random.default_rng(seed)
    order = np.argsort(strata, kind="stable")
    _, first, sizes = np.unique(strata[order], return_index=True, return_counts=True)
    start, size = np.repeat(first, sizes), np.repeat(sizes, sizes)
    for _ in range(resamples):
        # floor(random · size) is below size: random is at most 1 - 2⁻⁵³, and no stratum has 2⁵² units.
        drawn = start + (rng.random(len(order)) * size).astype(np.int64)
        yield np.bincount(order[drawn], minlength=len(order)).astype(np.float64)


def _function(sample: Sample, statistic: Statistic) -> Callable[[FloatArray], float]:
    """The statistic as a function of how often each unit counts."""
    missing = {statistic.value, statistic.over} - {None} - set(sample.values)
    if missing:
        raise UsageError(
            f"no outcome {', '.join(map(str, missing))}", allowed=", ".join(sample.values) or "none"
        )
    counted = np.asarray(sample.values[statistic.value], dtype=np.float64)
    good = ~np.isnan(counted)
    if statistic.without in sample.stratum_names:
        good &= sample.strata != sample.stratum_names.index(str(statistic.without))
    if statistic.kind.startswith("stratum"):
        good &= sample.strata >= 0
    counted, units, strata = counted[good], sample.units[good], sample.strata[good]
    if statistic.at_most is not None:
        counted = (counted <= statistic.at_most).astype(np.float64)
    if statistic.kind == "median":
        return _median(counted, units)
    over = (
        np.ones_like(counted) if statistic.over is None else np.asarray(sample.values[statistic.over])[good]
    )
    if statistic.kind in ("mean", "ratio"):
        above, below = (np.bincount(units, of, minlength=sample.count) for of in (counted, over))
        return _ratio(above.astype(np.float64), below.astype(np.float64))
    return _mean_of_ratios(counted, over, units, strata)


def _ratio(counted: FloatArray, over: FloatArray) -> Callable[[FloatArray], float]:
    """`sum(weight · counted) / sum(weight · over)`, both summed over the rows of each unit `(u,)`."""

    def function(weights: FloatArray) -> float:
        below = weights @ over
        return float(weights @ counted / below) if below > 0 else float("nan")

    return function


def _mean_of_ratios(
    counted: FloatArray, over: FloatArray, units: IntArray, strata: IntArray
) -> Callable[[FloatArray], float]:
    """Mean over strata of `sum(weight · counted) / sum(weight · over)`; those of 0 / 0 are left out."""

    def function(weights: FloatArray) -> float:
        of_rows = weights[units]
        above = np.bincount(strata, weights=of_rows * counted)
        below = np.bincount(strata, weights=of_rows * over)
        has = below > 0
        return float((above[has] / below[has]).mean()) if has.any() else float("nan")

    return function


def _median(values: FloatArray, units: IntArray) -> Callable[[FloatArray], float]:
    """The middle of the values, each as often as its unit counts; of an even number the mean of two."""
    order = np.argsort(values, kind="stable")
    rising, of = values[order], units[order]

    def function(weights: FloatArray) -> float:
        until = np.cumsum(weights[of])
        total = until[-1] if len(until) else 0.0
        if total < 1:
            return float("nan")
        places = np.searchsorted(until, [(total - 1) // 2, total // 2], side="right")
        return float(rising[places].mean())

    return function
