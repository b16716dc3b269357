"""Two reports of one task: what differs by more than chance."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.bench.outcomes import read_outcomes
from embedstore.bench.report import outcomes_path
from embedstore.documents import BenchReport, Comparison, Difference, Figure, differing_fields, read_bounded
from embedstore.documents.comparisons import LOWER_IS_BETTER, Compared
from embedstore.errors import UsageError
from embedstore.metrics import intervals
from embedstore.metrics.statistics import resampled

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

    from embedstore.bench.outcomes import Outcomes
    from embedstore.metrics.statistics import Sample
    from embedstore.shapes import FloatArray

# What was found, rather than what it depends on.
_FOUND = frozenset({"metrics", "chance", "per_class", "outcomes_sha256", "notes"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """One report as it was read, and the outcomes of its rows; `missing`: why there are none."""

    report: BenchReport
    told: Compared
    outcomes: dict[str, Outcomes]
    missing: str


def compare_reports(
    a: str | PathLike[str],
    b: str | PathLike[str],
    *,
    seed: int = 0,
    resamples: int = intervals.RESAMPLES,
    on_progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Each figure of both reports with B − A and its 95 % interval.

    Where a group's rows of both are the same by their ids, each resample draws the same of them from both: a
    paired bootstrap, so that what is hard for both heads cancels. Otherwise each is resampled by itself;
    where a report has no outcomes beside it, the interval follows from the two intervals, as the distances of
    their ends add in squares (Zou and Donner 2008). A difference whose interval holds 0 is noise.

    `on_progress(groups done, groups)`. Raises `UsageError` where a report cannot be read, where the tasks
    differ, or where no figure is in both.
    """
    ours, theirs = _read(Path(a)), _read(Path(b))
    if ours.report.task != theirs.report.task:
        raise UsageError(
            "the reports are of different tasks",
            found=f"{ours.report.task} and {theirs.report.task}",
            todo="compare reports of one task",
        )
    shared = [group for group in ours.report.metrics if group in theirs.report.metrics]
    metrics: dict[str, dict[str, Difference]] = {}
    units: dict[str, int] = {}
    unpaired: dict[str, str] = {}
    for done, group in enumerate(shared, 1):
        count, reason = _paired(ours, theirs, group)
        if reason:
            unpaired[group] = reason
        else:
            units[group] = count
        draws = (
            _draws(ours, group, seed, resamples),
            _draws(theirs, group, seed + 1 if reason else seed, resamples),
        )
        metrics[group] = _differences(ours, theirs, group, draws, paired=not reason)
        if on_progress is not None:
            on_progress(done, len(shared))
    if not any(metrics.values()):
        raise UsageError(
            "the reports have no figure in common",
            found=f"{_names(ours.report)} and {_names(theirs.report)}",
        )
    return Comparison(
        task=ours.report.task,
        a=ours.told,
        b=theirs.told,
        metrics=metrics,
        units=units,
        unpaired=unpaired,
        only=_only(ours.report, theirs.report),
        settings=differing_settings(ours.report, theirs.report),
        seed=seed,
        resamples=resamples,
    )


def differing_settings(a: BenchReport, b: BenchReport) -> dict[str, tuple[str | None, str | None]]:
    """`field -> (of A, of B)`, in words, of all that the figures depend on and that is not the same."""
    found = differing_fields(a, b)
    return {
        name: (_words(x), _words(y))
        for name, (x, y) in found.items()
        # An empty table against a filled one: the fields of the other are told.
        if name.split(".")[0] not in _FOUND and x != {} and y != {}
    }


def _read(path: Path) -> _Side:
    data = read_bounded(path, UsageError)
    report = BenchReport.from_json(data, where=path, error=UsageError)
    told = Compared(
        file=path.name,
        sha256=hashlib.sha256(data).hexdigest(),
        head_sha256=report.head_sha256,
        store_fingerprint=report.store_fingerprint,
    )
    beside = outcomes_path(path)
    if report.outcomes_sha256 is None:
        return _Side(report=report, told=told, outcomes={}, missing="it was written without its rows")
    if not beside.is_file():
        return _Side(report=report, told=told, outcomes={}, missing=f"{beside.name} is not beside it")
    return _Side(report=report, told=told, outcomes=read_outcomes(beside, report.outcomes_sha256), missing="")


def _paired(a: _Side, b: _Side, group: str) -> tuple[int, str]:
    """How many units of a group both have, and why these cannot be paired; no reason: they can."""
    for side in (a, b):
        if group not in side.outcomes:
            reason = side.missing or "its task does not tell the rows of this group"
            return 0, f"no rows of {side.told.file}: {reason}"
    ours, theirs = (set(side.outcomes[group].unit_ids) for side in (a, b))
    if ours != theirs:
        counts = (
            f"{len(ours & theirs)} in both, {len(ours - theirs)} only in A, {len(theirs - ours)} only in B"
        )
        return 0, f"other rows: {counts}"
    x, y = (side.outcomes[group] for side in (a, b))
    if any(s.stratified for s in x.statistics.values()) and _strata(x.sample) != _strata(y.sample):
        return 0, "the same rows, but of other classes"
    return len(ours), ""


def _draws(side: _Side, group: str, seed: int, resamples: int) -> dict[str, FloatArray]:
    """Each metric of a group in every resample, or nothing where its rows are not told."""
    rows = side.outcomes.get(group)
    return {} if rows is None else resampled(rows.sample, rows.statistics, seed=seed, resamples=resamples)


def _differences(
    a: _Side, b: _Side, group: str, draws: tuple[dict[str, FloatArray], ...], *, paired: bool
) -> dict[str, Difference]:
    """Each metric that both have in a group."""
    ours, theirs = a.report.metrics[group], b.report.metrics[group]
    return {
        metric: _difference(metric, figure, theirs[metric], [d.get(metric) for d in draws], paired=paired)
        for metric, figure in ours.items()
        if metric in theirs
    }


def _difference(
    metric: str, a: Figure, b: Figure, draws: list[FloatArray | None], *, paired: bool
) -> Difference:
    ours, theirs = draws
    value = b.value - a.value
    if ours is None or theirs is None:
        how = "intervals"
        low, high = intervals.difference_interval((a.low, a.value, a.high), (b.low, b.value, b.high))
    else:
        how = "paired" if paired else "unpaired"
        low, high = (float(end) for end in np.nanpercentile(theirs - ours, (2.5, 97.5)))
    noise = low <= 0 <= high
    b_is_better = (value < 0) == (metric in LOWER_IS_BETTER)
    return Difference(
        a=a,
        b=b,
        difference=Figure(value=value, low=low, high=high),
        how=how,
        better="noise" if noise else "b" if b_is_better else "a",
    )


def _only(a: BenchReport, b: BenchReport) -> dict[str, Any]:
    """Figures that one report has alone."""
    ours, theirs = (
        {f"{group}/{metric}" for group, figures in report.metrics.items() for metric in figures}
        for report in (a, b)
    )
    return {name: "a" if name in ours else "b" for name in sorted(ours ^ theirs)}


def _strata(sample: Sample) -> list[str | None]:
    """The stratum of each unit, by its name."""
    return [sample.stratum_names[s] if s >= 0 else None for s in sample.unit_strata]


def _names(report: BenchReport) -> str:
    return ", ".join(report.metrics)


def _words(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
