"""`embedstore verify`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore_cli import options as opt
from embedstore_cli import render

if TYPE_CHECKING:
    from embedstore.store import VerifyReport


def verify(
    store: opt.StorePath,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Remove temporary files and the records of damaged units, so that the command that made the "
            "feature makes them again.",
        ),
    ] = False,
    sample: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="Read only this share of the chunks, e.g. 1%; everything small is still checked in full.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the sample.")] = 0,
    workers: Annotated[
        int | None, typer.Option(help="Threads that read; one a core, at most 8, if not given.")
    ] = None,
    json: opt.Json = False,
) -> None:
    """Check every table, record and checksum of a store; exit code 1 where something is wrong."""
    from embedstore.store import parse_share, verify_store

    started = time.monotonic()
    with render.bars(quiet=json) as bars:

        def show(name: str, done: int, total: int) -> None:
            bars.update(name, done=done, total=total, note="units")

        report = verify_store(
            store,
            repair=repair,
            sample=parse_share(sample) if sample is not None else None,
            seed=seed,
            workers=workers,
            on_progress=show,
        )
    render.print_json(report.to_json()) if json else _show(report, time.monotonic() - started)
    if not report.sound:
        raise typer.Exit(1)


def _show(report: VerifyReport, seconds: float) -> None:
    for finding in report.findings:
        render.warn(str(finding))
    for action in report.repaired:
        render.say(f"repaired: {action}")
    rate = f"{render.size(report.nbytes_read)} in {render.duration(seconds)}"
    if report.sample is None:
        render.say(f"read {report.files} files of {report.units} units, {rate}")
        render.say("the store is sound" if report.sound else "the store is damaged")
        return
    render.say(
        f"sampled {100 * report.sample:g} % of the chunks, seed {report.seed}: tested "
        f"{report.chunks_tested} of {report.chunks} chunks, {rate}"
    )
    render.say("the sample is sound; the rest was not read" if report.sound else "the store is damaged")
