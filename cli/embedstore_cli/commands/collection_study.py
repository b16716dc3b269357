"""`embedstore collection-study`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedstore_cli import options as opt
from embedstore_cli import render


def collection_study(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the stores and the heads.")] = Path(
        "collection-study"
    ),
    page: Annotated[
        Path, typer.Option(metavar="FILE", help="The page that is written, with its chart beside it.")
    ] = Path("docs/collection-study.md"),
    seeds: Annotated[int, typer.Option(min=2, help="Fits on each set of rows.")] = 5,
    device: opt.Device = "auto",
    json: opt.Json = False,
) -> None:
    """Fit on concept-balanced rows, on random ones and on all, and write what came out as a page.

    What is finished in DIR is not made again.
    """
    from embedstore.recipes.collection_study import CollectionStudy, Recipe

    run = CollectionStudy(
        out=out,
        page=page,
        recipe=Recipe(seeds=seeds),
        device=device,
        say=(lambda _: None) if json else render.say,
    )
    found = run.run()
    if json:
        render.print_json(found.to_dict())
