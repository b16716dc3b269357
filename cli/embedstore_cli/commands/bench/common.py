"""What every task shares: where a report goes, and how it is printed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore_cli import render

if TYPE_CHECKING:
    from embedstore.bench import Measured

Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE",
        help="Also write the report here, and the outcomes of its rows beside it.",
        show_default=False,
    ),
]


def split_of(words: str) -> str | None:
    """The split that `--split` names; `all`: none."""
    return None if words == "all" else words


def finish(measured: Measured, out: Path | None, *, json: bool) -> None:
    """Write the report where one wants it, and print it for a person or a machine."""
    from embedstore.bench import write_measured

    report = measured.report if out is None else write_measured(measured, out)
    if json:
        render.print_json(report.to_json())
        return
    render.report(report)
    if out is not None:
        render.say(f"report: {out}")
