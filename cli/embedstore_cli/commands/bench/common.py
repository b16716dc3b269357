"""What every task shares: where a report goes, and how it is printed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore_cli import render

if TYPE_CHECKING:
    from embedstore.bench import Measured
    from embedstore.documents import BenchReport

Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE",
        help="Also write the report here, and the outcomes of its rows beside it.",
        show_default=False,
    ),
]

Csv = Annotated[
    Path | None,
    typer.Option(
        "--csv",
        metavar="FILE",
        help="Append rows of CLIP_benchmark's results table to this file.",
        show_default=False,
    ),
]


def split_of(words: str) -> str | None:
    """The split that `--split` names; `all`: none."""
    return None if words == "all" else words


def finish(
    measured: Measured,
    out: Path | None,
    *,
    json: bool,
    csv: Path | None = None,
    names: tuple[str, str | None] | None = None,
) -> None:
    """Write the report where one wants it, and print it for a person or a machine.

    names: what the user called the store and the head, for the rows of `csv`.
    """
    from embedstore.bench import write_measured

    if csv is not None and names is not None:
        add_rows(measured.report, csv, *names)
    report = measured.report if out is None else write_measured(measured, out)
    if json:
        render.print_json(report.to_json())
        return
    render.report(report)
    if out is not None:
        render.say(f"report: {out}")


def add_rows(report: BenchReport, csv: Path, store: str, head: str | None) -> None:
    """Append the report to a table of CLIP_benchmark, named after the folders of its store and its head."""
    from embedstore.bench.clip_csv import append_csv, csv_rows

    dataset = "+".join(_last(part) for part in store.split("+"))
    append_csv(csv_rows(report, dataset=dataset, pretrained=_last(head) if head else "stored"), csv)


def _last(place: str) -> str:
    """The last part of a path or URL, without an ending."""
    name = place.rstrip("/").rpartition("/")[2]
    return name.rpartition(".")[0] or name
