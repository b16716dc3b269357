"""`embedstore demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedstore_cli import options as opt
from embedstore_cli import render


def demo(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder for everything the demo makes.")
    ] = Path("demo"),
    scenes: Annotated[int, typer.Option(min=50, help="Rendered scenes.")] = 1500,
    device: opt.Device = "auto",
    seed: opt.Seed = 0,
    json: opt.Json = False,
) -> None:
    """The whole line on rendered scenes: encode, fit, retrieval and zero-shot, and a page to look at."""
    from embedstore.recipes.demo import run_demo

    result = run_demo(
        directory, scenes=scenes, seed=seed, device=device, say=(lambda _: None) if json else render.say
    )
    if json:
        render.print_json(result.to_dict())
        return
    for report in result.reports:
        render.report(report)
    render.say(f"page: {result.page}")
