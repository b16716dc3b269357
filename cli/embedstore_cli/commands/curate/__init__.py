"""`embedstore curate VERB`: one file a verb."""

from __future__ import annotations

import typer

from embedstore_cli.commands.curate import (
    algebra,
    balance,
    collect,
    dedup,
    leaks,
    mix,
    pairs,
    prototypes,
    score,
    subsets,
)

app = typer.Typer(
    help="Choose rows of a store as named subsets, with the reason for each; nothing is copied.",
    no_args_is_help=True,
)


@app.callback()
def curate() -> None:
    """Choose rows of a store as named subsets, with the reason for each; nothing is copied."""


app.command("prototypes")(prototypes.prototypes)
app.command("collect")(collect.collect)
app.command("union")(algebra.union)
app.command("intersect")(algebra.intersect)
app.command("subtract")(algebra.subtract)
app.command("sample")(algebra.sample)
app.command("ids")(algebra.ids)
app.command("dedup")(dedup.dedup)
app.command("leaks")(leaks.leaks)
app.command("pairs")(pairs.pairs)
app.command("score")(score.score)
app.command("balance")(balance.balance)
app.command("mix")(mix.mix)
app.command("show")(subsets.show)
app.command("list")(subsets.list_)
