"""`embedstore verify`."""

from __future__ import annotations

from typing import Annotated

import typer

from embedstore_cli import options as opt
from embedstore_cli import render


def verify(
    store: opt.StorePath,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Remove temporary files and the records of damaged units, so that encode makes them again.",
        ),
    ] = False,
    json: opt.Json = False,
) -> None:
    """Check every table, record and checksum of a store; exit code 1 where something is wrong."""
    from embedstore.store import verify_store

    with render.bars(quiet=json) as bars:
        report = verify_store(
            store,
            repair=repair,
            on_progress=lambda name, done, total: bars.update(name, done=done, total=total),
        )
    if json:
        render.print_json(report.to_json())
    else:
        for finding in report.findings:
            render.warn(str(finding))
        for action in report.repaired:
            render.say(f"repaired: {action}")
        render.say("the store is sound" if report.sound else "the store is damaged")
    if not report.sound:
        raise typer.Exit(1)
