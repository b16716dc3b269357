"""`embedstore bench TASK`: one file a task."""

from __future__ import annotations

import typer

from embedstore.bench import TASKS
from embedstore_cli.commands.bench import compare, ease, everything, policies, retrieval, zeroshot
from embedstore_cli.commands.bench.plug_in import plug_in

app = typer.Typer(help="Measure what a fitted head is worth.", no_args_is_help=True)
app.command("ease")(ease.ease)
app.command("retrieval")(retrieval.retrieval)
app.command("zeroshot")(zeroshot.zeroshot)
app.command("all")(everything.everything)
app.command("compare")(compare.compare)
app.command("policies")(policies.policies)

for _name in sorted(set(TASKS.names()) - {command.name for command in app.registered_commands}):
    plug_in(app, _name)
