"""What every task shares: where a report goes, and how it is printed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore.errors import UsageError
from embedstore_cli import render

if TYPE_CHECKING:
    from collections.abc import Callable

    from embedstore.bench import Measured
    from embedstore.documents import BenchReport

Out = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Also write the report here.", show_default=False)
]


def split_of(words: str) -> str | None:
    """The split that `--split` names; `all`: none."""
    return None if words == "all" else words


def words(text: str, option: str) -> tuple[str, ...]:
    """`a,b,c`, each once; `UsageError` otherwise."""
    found = tuple(word.strip() for word in text.split(","))
    if not all(found) or len(set(found)) < len(found):
        raise UsageError("not a list of names", where=option, found=text, allowed="a,b,c, each once")
    return found


def finish(
    measured: Measured,
    out: Path | None,
    *,
    json: bool,
    show: Callable[[BenchReport], None] = render.report,
) -> None:
    """Write the report where one wants it, and print it for a machine, or by `show` for a person."""
    from embedstore.bench import write_report

    if out is not None:
        write_report(measured.report, out)
    if json:
        render.print_json(measured.report.to_json())
        return
    show(measured.report)
    if out is not None:
        render.say(f"report: {out}")
