"""What is shown of tasks that measure no head: the ease of alignment, and rates of this machine."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from embedstore.recipes.ease_plot import ease_plot
from embedstore.recipes.page.content import Block, Measure, RateRow, Section

if TYPE_CHECKING:
    from embedstore.documents import EaseReport, Rate, RatesReport

_SCALES = {"B/s": (1e9, "GB/s"), "FLOP/s": (1e9, "GFLOP/s")}


def ease_measures(report: EaseReport) -> tuple[Measure, ...]:
    """Correlations; 0 is what unrelated numbers have."""
    return tuple(
        Measure(group=kind, metric=name, figure=figure, chance=0.0)
        for kind, figures in report.metrics.items()
        for name, figure in figures.items()
    )


def ease_blocks(report: EaseReport) -> tuple[Block, ...]:
    """CKA against the lowest loss: every point, and how the two correlate."""
    of = "encoder pairs" if report.store_fingerprint else "toy worlds"
    facts = Section.of(
        "What was measured",
        points=f"{len(report.points):,} {of} of {report.vectors:,} rows",
        steps=report.iterations,
        learning_rate=report.lr,
        temperature=report.temperature,
        split=report.split,
        language=report.language,
        role=report.role,
        left_out=", ".join(f"{name} {count:,}" for name, count in report.skipped.items()) or "nothing",
        seed=report.seed,
    )
    measures = ease_measures(report)
    figures = [Block(kind="figures", value=measures)] if measures else []
    return (
        Block(kind="plots", value=[ease_plot(report)]),
        *figures,
        Block(kind="facts", value=[facts]),
    )


def rates_blocks(report: RatesReport) -> tuple[Block, ...]:
    """Median rates beside the limits that were measured in turns with them."""
    blocks = [
        Block(kind="rates", title=of, value=tuple(map(_row, rates)))
        for of, rates in groupby(report.rates, key=lambda rate: rate.of)
    ]
    options = ", ".join(f"{name}={value}" for name, value in report.options.items())
    facts = Section.of("What was measured", threads=report.threads, options=options, seed=report.seed)
    return (*blocks, Block(kind="facts", value=[facts]))


def _row(rate: Rate) -> RateRow:
    scale, unit = _SCALES.get(rate.unit, (1.0, rate.unit))
    return RateRow(
        what=rate.what,
        value=f"{rate.value / scale:,.3g} {unit}",
        spread=f"{rate.low / scale:,.3g} – {rate.high / scale:,.3g}",
        share=rate.share,
        limit=rate.limit or "",
    )
