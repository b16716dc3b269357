"""The figures of any report: a table, a plot with intervals, and a curve where its groups are numbers."""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING

from embedstore.recipes.page.content import Block, Grid, GridRow, measures_of
from embedstore.recipes.page.plots import Curve, Interval, interval_plot, line_plot

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from embedstore.documents import BenchReport
    from embedstore.recipes.page.content import Measure, Plot

# What the numbers of a group mean, by task.
COUNTED = {
    "long-text": "tokens that are read at most",
    "probe": "training images of each class",
}
_NUMBER = re.compile(r"([1-9][0-9]*)(?: |$)")
_FEW_PARTS, _FEW_ROWS, _MOST_ROWS = 2, 20, 80


def figure_blocks(report: BenchReport) -> list[Block]:
    """All figures as a table, shares as a plot, and their curves."""
    measures = measures_of(report)
    table = Block(kind="figures", value=measures)
    if has_parts(measures):
        table = Block(kind="grids", value=grids(measures))
    plots = curves(report, measures)
    shown = intervals([m for m in measures if m.is_share])
    if 1 < len(shown) <= _MOST_ROWS:
        plots.append(interval_plot(shown, title="95 % intervals, and chance as a tick"))
    return [table, Block(kind="plots", value=plots)] if plots else [table]


def intervals(shares: Sequence[Measure]) -> list[Interval]:
    """Every figure under its group; of many figures or parts the first of each group, by direction."""
    if len(shares) <= _FEW_ROWS and not has_parts(shares):
        return [Interval(under=m.group, name=m.metric, measure=m) for m in shares]
    first = [next(group) for _, group in groupby(shares, key=lambda m: m.group)]
    return [
        Interval(under=f"{m.direction}, {m.metric}", name=m.part or "all", measure=m)
        for _, group in by_direction(first)
        for m in group
    ]


def grids(measures: Sequence[Measure]) -> tuple[Grid, ...]:
    """A table for each direction: a row for each part, a column for each metric, what chance gives below."""
    found = []
    for direction, own in by_direction(measures):
        metrics = tuple(dict.fromkeys(m.metric for m in own))
        rows = tuple(
            GridRow(
                name=part or "all",
                cells=tuple(next((m for m in own if (m.part, m.metric) == (part, x)), None) for x in metrics),
            )
            for part in dict.fromkeys(m.part for m in own)
        )
        found.append(Grid(direction=direction, metrics=metrics, rows=rows))
    return tuple(found)


def has_parts(measures: Sequence[Measure]) -> bool:
    """Whether a direction has more parts than one reads well one below the other."""
    return any(len({m.part for m in own}) > _FEW_PARTS for _, own in by_direction(measures))


def by_direction(measures: Iterable[Measure]) -> list[tuple[str, list[Measure]]]:
    """Directions in the order in which they come, each with its figures."""
    found: dict[str, list[Measure]] = {}
    for measure in measures:
        found.setdefault(measure.direction, []).append(measure)
    return list(found.items())


def curves(report: BenchReport, measures: Sequence[Measure]) -> list[Plot]:
    """The first share of each direction whose parts are numbers, over these, with interval and chance."""
    lines: dict[str, Curve] = {}
    by_chance: dict[str, Curve] = {}
    ticks: set[float] = set()
    metric = ""
    for direction, found in by_direction(m for m in measures if m.is_share):
        own: dict[float, Measure] = {}
        for m in found:
            number = _NUMBER.match(m.part)
            if number is not None:
                own.setdefault(int(number[1]), m)
        if len(own) < 2:
            continue
        at = sorted(own)
        ticks |= set(at)
        metric = own[at[0]].metric.replace("_", " ")
        called = direction.replace("_", " ")
        lines[called] = Curve(
            x=at,
            y=[100 * own[x].figure.value for x in at],
            low=[100 * own[x].figure.low for x in at],
            high=[100 * own[x].figure.high for x in at],
        )
        chance = [own[x].chance for x in at]
        if None not in chance:
            by_chance[called] = Curve(x=at, y=[100 * (c or 0.0) for c in chance], chance=True)
    if not lines:
        return []
    lines |= chance_lines(by_chance)
    x = COUNTED.get(report.task, "")
    return [line_plot(lines, title=f"{metric} over {x or 'the number'}", x=x, y="%", at=sorted(ticks))]


def chance_lines(curves: Mapping[str, Curve]) -> dict[str, Curve]:
    """The chance of each direction as a line; as one where they do not differ."""
    first = next(iter(curves.values()), None)
    if first is not None and all((c.x, c.y) == (first.x, first.y) for c in curves.values()):
        return {"chance": first}
    return {f"{name}, chance": curve for name, curve in curves.items()}
