"""Two reports of one task: what differs by more than chance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.bench.sides import Side, read_sides
from embedstore.documents import (
    LOWER_IS_BETTER,
    Comparison,
    Comparisons,
    Difference,
    Figure,
    differing_fields,
)
from embedstore.errors import UsageError
from embedstore.metrics import intervals
from embedstore.metrics.statistics import resampled

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

    from embedstore.bench.outcomes import Outcomes
    from embedstore.documents import BenchReport
    from embedstore.metrics.statistics import Sample
    from embedstore.shapes import FloatArray

# What was found, rather than what it depends on.
_FOUND = frozenset({"metrics", "chance", "per_class", "confused", "outcomes_sha256", "notes"})
FEW_IMAGES = 5


def compare_files(
    a: str | PathLike[str],
    b: str | PathLike[str],
    *,
    seed: int = 0,
    resamples: int = intervals.RESAMPLES,
    on_progress: Callable[[int, int], None] | None = None,
) -> Comparisons:
    """`compare_reports` of each task that two files have; a file holds one report, or those of `all`.

    `on_progress(groups done, groups)`. Raises `UsageError` where a file cannot be read, where no task is in
    both, or where no figure of a task is.
    """
    ours, theirs = read_sides(Path(a)), read_sides(Path(b))
    shared = [task for task in ours if task in theirs]
    if not shared:
        raise UsageError(
            "the reports are of different tasks",
            found=f"{', '.join(ours)} and {', '.join(theirs)}",
            todo="compare reports of one task",
        )
    total = sum(len(ours[task].report.metrics) for task in shared)
    done, comparisons = 0, []
    for task in shared:
        before = done

        def tell(groups: int, _: int, before: int = before) -> None:
            if on_progress is not None:
                on_progress(before + groups, total)

        comparisons.append(
            compare_reports(ours[task], theirs[task], seed=seed, resamples=resamples, on_progress=tell)
        )
        done += len(ours[task].report.metrics)
    return Comparisons(
        comparisons=tuple(comparisons),
        only={task: "a" if task in ours else "b" for task in sorted(ours.keys() ^ theirs.keys())},
    )


def compare_reports(
    ours: Side,
    theirs: Side,
    *,
    seed: int = 0,
    resamples: int = intervals.RESAMPLES,
    on_progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Each figure of two reports of one task with B − A and its 95 % interval.

    Where a group's rows of both are the same by their ids, each resample draws the same images, with all
    their rows, from both: a paired bootstrap, so that what is hard for both heads cancels. Otherwise each is
    resampled by itself; where a report has no outcomes beside it, the interval follows from the two
    intervals, as the distances of their ends add in squares (Zou and Donner 2008). A difference whose
    interval holds 0 is noise.

    `on_progress(groups done, groups)`. Raises `UsageError` where no figure is in both.
    """
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
        notes=tuple(
            dict.fromkeys(
                note
                for group in shared
                for side in (ours, theirs)
                for note in _few_images(side.outcomes.get(group), group)
            )
        ),
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


def _paired(a: Side, b: Side, group: str) -> tuple[int, str]:
    """How many units of a group both have, and why these cannot be paired; no reason: they can."""
    for side in (a, b):
        if group not in side.outcomes:
            reason = side.missing or "its task does not tell the rows of this group"
            return 0, f"no rows of {side.told.file}: {reason}"
    x, y = (side.outcomes[group] for side in (a, b))
    ours, theirs = x.unit_of, y.unit_of
    if ours.keys() != theirs.keys():
        both, only_a, only_b = (
            len(ids)
            for ids in (ours.keys() & theirs.keys(), ours.keys() - theirs.keys(), theirs.keys() - ours.keys())
        )
        return 0, f"other rows: {both} in both, {only_a} only in A, {only_b} only in B"
    if ours != theirs:
        return 0, "the same rows, but of other images"
    if any(s.stratified for s in x.statistics.values()) and _strata(x.sample) != _strata(y.sample):
        return 0, "the same rows, but of other classes"
    return x.sample.count, ""


def _draws(side: Side, group: str, seed: int, resamples: int) -> dict[str, FloatArray]:
    """Each metric of a group in every resample, or nothing where its rows are not told."""
    rows = side.outcomes.get(group)
    return {} if rows is None else resampled(rows.sample, rows.statistics, seed=seed, resamples=resamples)


def _differences(
    a: Side, b: Side, group: str, draws: tuple[dict[str, FloatArray], ...], *, paired: bool
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


def _few_images(rows: Outcomes | None, group: str) -> list[str]:
    """Which means over strata have strata of too few units for their intervals."""
    stratified = [name for name, s in rows.statistics.items() if s.stratified] if rows is not None else []
    if rows is None or not stratified:
        return []
    known = rows.sample.strata >= 0
    each = np.unique(np.stack([rows.sample.strata[known], rows.sample.units[known]]), axis=1)[0]
    _, counts = np.unique(each, return_counts=True)
    few = int((counts < FEW_IMAGES).sum())
    return [
        f"{group} {name}: {few} of {len(counts)} classes have fewer than {FEW_IMAGES} images, so its "
        "interval cannot be relied on"
        for name in stratified
        if few
    ]


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
