"""`embedstore curate VERB`: one file a verb."""

from __future__ import annotations

import typer

from embedstore_cli.commands.curate import pairs

app = typer.Typer(
    help="Choose rows of a store as named subsets, with the reason for each; nothing is copied.",
    no_args_is_help=True,
)


@app.callback()
def curate() -> None:
    """Choose rows of a store as named subsets, with the reason for each; nothing is copied."""


app.command("pairs")(pairs.pairs)
