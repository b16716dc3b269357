"""Options that every verb has, and what each prints of the subset that it made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from embedstore_cli import render

if TYPE_CHECKING:
    from embedstore.store import Subset

# The bars of a verb's stages.
progress = render.progress

SubsetName = Annotated[
    str, typer.Option("--name", metavar="SUBSET", help="Name of the subset that is made.", show_default=False)
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what has that name already.")]
Rows = Annotated[
    str | None,
    typer.Option(
        metavar="SUBSET|FILE",
        help="Choose only among these: rows of a subset, or with an id in this file.",
        show_default=False,
    ),
]
PooledFeature = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Feature whose pooled embeddings are compared; needed where several could be meant.",
        show_default=False,
    ),
]
OneSplit = Annotated[
    str | None, typer.Option("--split", metavar="SPLIT", help="Only rows of this split.", show_default=False)
]
MemoryMB = Annotated[
    int, typer.Option("--memory-mb", min=0, help="More embeddings than this lie in a temporary file.")
]


def finish(subset: Subset, lines: list[str], *, json: bool) -> None:
    """The subset's card as JSON; for a person how many rows it has, then `lines`."""
    if json:
        render.print_json(subset.card.to_json())
        return
    left_out = f", {subset.dropped_count} told of as left out" if subset.dropped_count else ""
    render.say(f"{subset.name}: {len(subset)} {subset.table}{left_out}")
    for line in lines:
        render.say(line)
