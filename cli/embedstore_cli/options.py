"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

StorePath = Annotated[
    str,
    typer.Argument(
        metavar="STORE",
        help="Folder or URL (s3, gs, http) of the store; several with equal cards are read as one: A+B.",
        show_default=False,
    ),
]
OneStore = Annotated[
    str, typer.Argument(metavar="STORE", help="Folder or URL (s3, gs) of one store.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Seed = Annotated[int, typer.Option(help="Decides everything random.")]
HeadDir = Annotated[
    Path, typer.Option("--head", metavar="DIR", help="Folder that fit wrote.", show_default=False)
]
Split = Annotated[str, typer.Option(help="Split that is measured; 'all' takes every row.")]
Language = Annotated[str, typer.Option(help="Language of the captions.")]
