"""How `cache` and `speed` print rates and write their report."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore_cli import render
from embedstore_cli.commands.bench import common

if TYPE_CHECKING:
    from pathlib import Path

    from embedstore.documents import Rate, RatesReport

# What a unit is shown in.
_SCALES = {"B/s": (1e9, "GB/s"), "FLOP/s": (1e9, "GFLOP/s")}

Repeats = Annotated[int, typer.Option(help="Rounds; medians are told, with the slowest and quickest.")]


def finish(report: RatesReport, out: Path | None, *, json: bool, html: Path | None = None) -> None:
    """Write the report and its page where one wants them, and print it for a person or a machine."""
    from embedstore.bench.report import write_report

    if out is not None:
        write_report(report, out)
    if html is not None:
        common.write_page([report], html, json=json)
    if json:
        render.print_json(report.to_json())
        return
    for number, (of, rates) in enumerate(groupby(report.rates, key=lambda rate: rate.of)):
        if number:
            render.say()
        _show(report, of, list(rates))
    render.say()
    render.say(f"medians of up to {max(r.rounds for r in report.rates)} rounds; {report.threads} threads")
    for note in report.notes:
        render.warn(note)
    if out is not None:
        render.say(f"report: {out}")
    if html is not None:
        render.say(f"page: {html}")


def _show(report: RatesReport, of: str, rates: list[Rate]) -> None:
    render.heading(of)
    held = report.features.get(of)
    if held is not None:
        known = "" if held.in_memory is None else f", {100 * held.in_memory:.0f} % in memory"
        render.say(
            f"{held.rows} rows of {render.size(held.row_bytes)} ({held.policy}), "
            f"{render.size(held.nbytes)}{known}"
        )
        if held.measured_rows < held.rows:
            render.say(f"read: {held.measured_rows} rows, {render.size(held.measured_bytes)}")
    for unit, some in groupby(rates, key=lambda rate: rate.unit):
        scale, name = _SCALES.get(unit, (1.0, unit))
        render.table(
            "",
            ("", name, "slowest – quickest", "of limit", "limit"),
            [
                (
                    rate.what,
                    _number(rate.value / scale),
                    f"{_number(rate.low / scale)} – {_number(rate.high / scale)}",
                    "" if rate.share is None else f"{rate.share:.2f}",
                    rate.limit or "",
                )
                for rate in some
            ],
            words=("limit",),
        )


def _number(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:.0f}" if value >= 1000 else f"{float(f'{value:.3g}'):g}"
