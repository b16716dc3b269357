"""`embedstore curate balance`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore_cli import options as opt
from embedstore_cli import render
from embedstore_cli.commands.curate import common

if TYPE_CHECKING:
    from embedstore.curate.balance import Balanced
    from embedstore.shapes import IntArray

_ENDS = 8


def balance(
    store: opt.StorePath,
    name: common.SubsetName,
    entries: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Metadata entries, one a line or as a JSON list; without it the store's class names.",
            show_default=False,
        ),
    ] = None,
    cap: Annotated[int, typer.Option(help="Rows of an entry from which on it is sub-sampled.")] = 20_000,
    seed: opt.Seed = 0,
    case: Annotated[bool, typer.Option("--case", help="Upper and lower case are different.")] = False,
    table: Annotated[
        str, typer.Option(help="What is chosen: images, by all their texts, or single texts.")
    ] = "images",
    role: Annotated[str, typer.Option(help="Role of the texts, or all.")] = "caption",
    language: Annotated[str, typer.Option(help="Language of the texts, or all.")] = "en",
    rows: common.Rows = None,
    overwrite: common.Overwrite = False,
    json: opt.Json = False,
) -> None:
    """Balance rows by the entries in their texts, as MetaCLIP does: a cap on frequent ones."""
    from embedstore.curate.balance import balance_rows

    with common.progress(quiet=json) as report:
        found = balance_rows(
            store,
            name=name,
            entries=entries,
            cap=cap,
            seed=seed,
            case=case,
            table=table,
            role=role,
            language=language,
            rows=rows,
            overwrite=overwrite,
            on_progress=partial(report, "texts matched"),
        )
    counts = found.subset.card.counts
    above = counts["entries_above_the_cap"]
    lines = [
        f"{found.matched} rows with an entry, {found.unmatched} without",
        f"{counts['entries_matched']} of {len(found.entries)} entries found, {above} above the cap of {cap}",
    ]
    common.finish(found.subset, lines, json=json)
    if not json:
        head, tail = found.ends(_ENDS)
        _entries("most frequent", found, head)
        if len(tail):
            _entries("rarest", found, tail)


def _entries(title: str, found: Balanced, which: IntArray) -> None:
    lines = [(found.entries[k], int(found.counts[k]), int(found.kept[k])) for k in which.tolist()]
    render.table("", (title, "rows", "kept"), lines)
