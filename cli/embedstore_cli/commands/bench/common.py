"""What every task shares: where a report goes, and how it is printed."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore.errors import UsageError
from embedstore_cli import render

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from embedstore.bench import Measured
    from embedstore.documents import BenchReport
    from embedstore.recipes.bench_page import Subject


def _writable(file: Path | None) -> Path | None:
    """Refuse a place before the work, not after it."""
    if file is not None:
        from embedstore.bench.report import check_place

        check_place(file)
    return file


def _drawable(page: Path | None) -> Path | None:
    """Refuse before anything is measured what would be refused after it."""
    if page is not None:
        from embedstore.bench.report import check_place
        from embedstore.recipes.page.extra import check_extra

        check_place(page)
        check_extra()
    return page


def _appendable(table: Path | None) -> Path | None:
    """The same of a table that rows are appended to."""
    if table is not None:
        from embedstore.bench.clip_csv import check_table

        check_table(table)
    return table


Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE",
        help="Also write the report here, and the outcomes of its rows beside it.",
        show_default=False,
        callback=_writable,
    ),
]
Html = Annotated[
    Path | None,
    typer.Option(
        "--html",
        metavar="FILE",
        help="Also draw one page of it: figures, plots, examples, mistakes.",
        show_default=False,
        callback=_drawable,
    ),
]


ReportOut = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="FILE", help="Also write the report here.", show_default=False, callback=_writable
    ),
]

Csv = Annotated[
    Path | None,
    typer.Option(
        "--csv",
        metavar="FILE",
        help="Append rows of CLIP_benchmark's results table to this file.",
        show_default=False,
        callback=_appendable,
    ),
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
    html: Path | None = None,
    csv: Path | None = None,
    names: tuple[str, str | None] | None = None,
    show: Callable[[BenchReport], None] = render.report,
) -> None:
    """Write the report and its page where one wants them, and print it for a machine or by `show`.

    names: what the user called the store and the head, for the rows of `csv`.
    """
    from embedstore.bench import write_measured

    report = measured.report if out is None else write_measured(measured, out)
    # First what cannot fail, so that a page or a row that cannot be made loses no figures.
    if json:
        render.print_json(report.to_json())
    else:
        show(report)
    if csv is not None and names is not None:
        add_rows([measured.report], csv, *names)
    if html is not None:
        write_page([measured], html, json=json)
    for what, place in (("report", out), ("page", html)):
        if place is not None and not json:
            render.say(f"{what}: {place}")


def write_page(
    measured: Sequence[Subject], html: Path, *, json: bool, left_out: Mapping[str, str] | None = None
) -> None:
    """One page of one or several tasks, with the command that was typed; `left_out`: task to reason."""
    from embedstore.recipes.bench_page import Told, write_bench_page

    command = shlex.join(["embedstore", *sys.argv[1:]])
    told = Told(commands=(command,), left_out=left_out or {})
    with render.bars(quiet=json) as bars:
        write_bench_page(
            measured,
            html,
            told=told,
            on_progress=lambda done, total, what: bars.update("page", done=done, total=total, note=what),
        )


def add_rows(reports: Sequence[BenchReport], csv: Path, store: str, head: str | None) -> None:
    """Append reports to a table of CLIP_benchmark, named after the folders of their store and their head."""
    from embedstore.bench.clip_csv import append_csv, csv_rows

    dataset = "+".join(_last(part) for part in store.split("+"))
    append_csv(csv_rows(reports, dataset=dataset, pretrained=_last(head) if head else "stored"), csv)


def _last(place: str) -> str:
    """The last part of a path or URL, without an ending."""
    name = place.rstrip("/").rpartition("/")[2]
    return name.rpartition(".")[0] or name
