"""The figures of any report: a table, a plot with intervals, and a curve where its groups are numbers."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from embedstore.recipes.page.content import Block, measures_of
from embedstore.recipes.page.plots import Curve, interval_plot, line_plot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedstore.documents import BenchReport
    from embedstore.recipes.page.content import Measure, Plot

# What the numbers of a group mean, by task.
COUNTED = {
    "long-text": "tokens that are read at most",
    "probe": "neighbours, or training images of a class",
}
_MOST_ROWS = 40


def figure_blocks(report: BenchReport) -> list[Block]:
    """All figures as a table, shares as a plot, and their curves."""
    measures = measures_of(report)
    blocks = [Block(kind="figures", value=measures)]
    plots = curves(report, measures)
    shares = [m for m in measures if m.is_share]
    if len(shares) > _MOST_ROWS:
        shares = [next(group) for _, group in groupby(shares, key=lambda m: m.group)]
    if 1 < len(shares) <= 2 * _MOST_ROWS:
        plots.append(interval_plot(shares, title="95 % intervals, and chance as a tick"))
    return [*blocks, Block(kind="plots", value=plots)] if plots else blocks


def curves(report: BenchReport, measures: Sequence[Measure]) -> list[Plot]:
    """The first share of each direction whose parts are numbers, over these, with interval and chance."""
    lines: dict[str, Curve] = {}
    ticks: set[float] = set()
    metric = ""
    for direction in dict.fromkeys(m.group.partition("/")[0] for m in measures):
        own: dict[float, Measure] = {}
        for m in measures:
            name, _, part = m.group.partition("/")
            if name == direction and part.isdecimal() and int(part) and m.is_share:
                own.setdefault(int(part), m)
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
            lines[f"{called}, chance"] = Curve(x=at, y=[100 * (c or 0.0) for c in chance], chance=True)
    if not lines:
        return []
    x = COUNTED.get(report.task, "")
    return [line_plot(lines, title=f"{metric} over {x or 'the number'}", x=x, y="%", at=sorted(ticks))]
