"""`embedstore bench all`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from embedstore_cli import options as opt
from embedstore_cli import render
from embedstore_cli.commands.bench import common
from embedstore_cli.commands.bench.multilingual import by_language

if TYPE_CHECKING:
    from embedstore.bench.everything import Everything


# Tasks with a table of their own.
_TABLES = {"multilingual": by_language}


def everything(
    store: opt.StorePath,
    head: opt.AnyHeadDir = None,
    image: opt.ImageFeature = None,
    text: opt.TextFeature = None,
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK", help="Only this task; may be repeated.", show_default=False),
    ] = None,
    split: opt.Split = "test",
    rows: opt.Rows = None,
    text_encoder: opt.TextEncoder = None,
    device: opt.Device = "auto",
    seed: opt.Seed = 0,
    out: common.Out = None,
    html: common.Html = None,
    csv: common.Csv = None,
    json: opt.Json = False,
) -> None:
    """Every task that the store has data for, as one report; what is left out is told with its reason.

    Each task runs as its own command would without further options.
    """
    from embedstore.bench import measure_all, write_everything

    with render.bars(quiet=json) as bars:
        found = measure_all(
            store,
            head,
            image=image,
            text=text,
            tasks=task,
            split=common.split_of(split),
            rows=rows,
            text_encoder=text_encoder,
            device=device,
            seed=seed,
            on_progress=lambda done, total, what: bars.update("tasks", done=done, total=total, note=what),
        )
    document = found.document if out is None else write_everything(found, out)
    if json:
        render.print_json(document.to_json())
    else:
        _show(found)
    if csv is not None:
        common.add_rows(list(document.reports.values()), csv, store, head)
    if html is not None:
        common.write_page(list(found.measured.values()), html, json=json, left_out=found.left_out)
    for what, place in (("reports", out), ("page", html)):
        if place is not None and not json:
            render.say(f"{what}: {place}")


def _show(found: Everything) -> None:
    for task, one in found.measured.items():
        _TABLES.get(task, render.report)(one.report)
        render.say()
    for task, reason in found.left_out.items():
        render.fold(f"left out: {task}: {reason}")
