"""What tasks that compare pictures with prompts of classes share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

Templates = Annotated[
    str | None,
    typer.Option(
        "--templates",
        metavar="FILE|imagenet",
        help="Prompts, one a line, with {} for the class; or the eighty of ImageNet.",
        show_default=False,
    ),
]
Descriptions = Annotated[
    Path | None,
    typer.Option(
        "--descriptions",
        metavar="JSON",
        help="Sentences about each class: class -> list of sentences.",
        show_default=False,
    ),
]
CONVENTION = "clip-benchmark"
Convention = Annotated[
    str,
    typer.Option("--convention", help="How prompts become a class: clip-benchmark or freeze-align."),
]


def lines_or_imagenet(given: str | None) -> Sequence[str] | None:
    """The lines of a file, or the word that stands for ImageNet's own."""
    from embedstore.bench import read_lines
    from embedstore.bench.classes import IMAGENET

    return given if given is None or given == IMAGENET else read_lines(Path(given))
