"""`embedstore bench compare`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from embedstore_cli import options as opt
from embedstore_cli import render
from embedstore_cli.commands.bench import tables


def compare(
    a: Annotated[Path, typer.Argument(metavar="A.json", help="Report that --out wrote.", show_default=False)],
    b: Annotated[
        Path, typer.Argument(metavar="B.json", help="Another of the same task.", show_default=False)
    ],
    seed: opt.Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Also write the comparison here.", show_default=False),
    ] = None,
    json: opt.Json = False,
) -> None:
    """What differs between two reports of one task by more than chance: B − A with 95 % intervals.

    Rows are paired by their ids where both reports have the same, from the outcomes beside them.
    """
    from embedstore.bench import compare_files
    from embedstore.bench.report import write_text

    began = time.monotonic()
    with render.bars(quiet=json) as bars:

        def show(done: int, total: int) -> None:
            # Most comparisons are over before a bar is worth a look.
            if time.monotonic() - began > 2:
                bars.update("groups", done=done, total=total)

        found = compare_files(a, b, seed=seed, on_progress=show)
    if out is not None:
        write_text(found.to_json(), out)
    if json:
        render.print_json(found.to_json())
        return
    tables.comparisons(found)
    if out is not None:
        render.say(f"comparison: {out}")
