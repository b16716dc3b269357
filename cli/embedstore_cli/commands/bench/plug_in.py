"""Tasks of other packages, that came through an entry point."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedstore.bench import TASKS
from embedstore_cli import options as opt
from embedstore_cli.commands.bench import common

if TYPE_CHECKING:
    import typer


def plug_in(app: typer.Typer, name: str) -> None:
    """Give a task that has no command of its own one with the options that every task has."""

    def task(
        store: opt.StorePath,
        head: opt.HeadDir,
        split: opt.Split = "test",
        device: opt.Device = "auto",
        seed: opt.Seed = 0,
        out: common.Out = None,
        html: common.Html = None,
        json: opt.Json = False,
    ) -> None:
        measured = TASKS.load(name)(store, head, split=common.split_of(split), device=device, seed=seed)
        common.finish(measured, out, json=json, html=html)

    app.command(name, help=f"The task {name!r} of another package.")(task)
