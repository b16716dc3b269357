"""`embedstore bench cache`."""

from __future__ import annotations

from typing import Annotated

import typer

from embedstore_cli import options as opt
from embedstore_cli import render
from embedstore_cli.commands.bench import common, rates


def cache(
    store: opt.StorePath,
    feature: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A feature to read; again for more. Default: all.", show_default=False
        ),
    ] = None,
    megabytes: Annotated[float, typer.Option(help="Read at most so much of each feature.")] = 512,
    repeats: rates.Repeats = 5,
    threads: Annotated[
        int | None, typer.Option(help="Threads that read; default: as a fit has.", show_default=False)
    ] = None,
    seed: opt.Seed = 0,
    out: common.ReportOut = None,
    html: common.Html = None,
    json: opt.Json = False,
) -> None:
    """How fast the features of a store are read: in order, shuffled, row by row; warm and cold.

    Beside copies in memory and plain reads of the same files, measured in turns. Files are dropped from the
    page cache for the cold rates; nothing is written.
    """
    from embedstore.bench.cache import measure_cache

    with render.bars(quiet=json) as shown:
        report = measure_cache(
            store,
            features=feature,
            megabytes=megabytes,
            repeats=repeats,
            threads=threads,
            seed=seed,
            progress=lambda name, done, total: shown.update("features", done=done, total=total, note=name),
        )
    rates.finish(report, out, json=json, html=html)
