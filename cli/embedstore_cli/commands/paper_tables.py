"""`embedstore paper-tables`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedstore_cli import options as opt
from embedstore_cli import render


def paper_tables(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder with flickr8k-1k and vit-tiny-in1k.")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the store, the heads and their reports.")
    ] = Path("paper-tables"),
    page: Annotated[Path, typer.Option(metavar="FILE", help="The page that is written.")] = Path(
        "docs/paper-tables.md"
    ),
    configs: Annotated[
        Path, typer.Option(metavar="DIR", help="The repository's folder of configurations.")
    ] = Path("configs"),
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the pictures, for every fit.")] = 10,
    seeds: Annotated[int, typer.Option(min=1, help="Fits of each row.")] = 3,
    device: opt.Device = "auto",
    json: opt.Json = False,
) -> None:
    """Fit the tables of freeze-align and DALIP on a thousand photographs and write them as a page.

    What is finished in DIR is not fitted again.
    """
    from embedstore.recipes.paper_tables import PaperTables, Recipe

    run = PaperTables(
        data=data,
        out=out,
        page=page,
        configs=configs,
        recipe=Recipe(epochs=epochs, seeds=seeds),
        device=device,
        say=(lambda _: None) if json else render.say,
    )
    found = run.run()
    if json:
        render.print_json(found)
