"""`embedstore curate mix`."""

from __future__ import annotations

from typing import Annotated

import typer

from embedstore_cli import options as opt
from embedstore_cli.commands.curate import common


def mix(
    store: opt.StorePath,
    mix: Annotated[
        str,
        typer.Option(
            "--mix",
            metavar="NAME=SHARE,...",
            help="Subsets, files of ids or, in A+B, stores by their folder's name, and the share of each.",
            show_default=False,
        ),
    ],
    name: common.SubsetName,
    size: Annotated[
        int | None,
        typer.Option(
            help="How many rows; without it as many as the shares allow.", min=1, show_default=False
        ),
    ] = None,
    seed: opt.Seed = 0,
    rows: common.Rows = None,
    overwrite: common.Overwrite = False,
    json: opt.Json = False,
) -> None:
    """One subset out of several, in stated shares and of a fixed size."""
    from embedstore.curate.mixing import mix_rows

    found = mix_rows(store, opt.shares(mix), name=name, size=size, seed=seed, rows=rows, overwrite=overwrite)
    names = found.card.settings["of"]
    counts = [found.card.counts[f"of_{k + 1}"] for k in range(len(found.card.counts))]
    parts = zip(names if isinstance(names, tuple) else (names,), counts, strict=True)
    lines = [f"{count} of {part}, {count / len(found):.2%}" for part, count in parts]
    common.finish(found, lines, json=json)
