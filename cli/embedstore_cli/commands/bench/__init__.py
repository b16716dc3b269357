"""`embedstore bench TASK`: one file a task."""

from __future__ import annotations

import typer

from embedstore.bench import TASKS
from embedstore_cli.commands.bench import (
    cache,
    compare,
    ease,
    everything,
    long_text,
    multilingual,
    negatives,
    policies,
    probe,
    retrieval,
    segment,
    speed,
    zeroshot,
)
from embedstore_cli.commands.bench.plug_in import plug_in

app = typer.Typer(help="Measure what a fitted head is worth.", no_args_is_help=True)
app.command("retrieval")(retrieval.retrieval)
app.command("zeroshot")(zeroshot.zeroshot)
app.command("multilingual")(multilingual.multilingual)
app.command("segment")(segment.segment)
app.command("long-text")(long_text.long_text)
app.command("negatives")(negatives.negatives)
app.command("probe")(probe.probe)
app.command("ease")(ease.ease)
app.command("cache")(cache.cache)
app.command("speed")(speed.speed)
app.command("all")(everything.everything)
app.command("compare")(compare.compare)
app.command("policies")(policies.policies)

for _name in sorted(set(TASKS.names()) - {command.name for command in app.registered_commands}):
    plug_in(app, _name)
