"""`embedstore curate show` and `list`: what is in a subset, for a person and for other tools."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedstore_cli import options as opt
from embedstore_cli import render

if TYPE_CHECKING:
    from embedstore.curate.overview import Overview
    from embedstore.documents import SubsetCard

_VALUES = 12
_INDENT: dict[str, Any] = {"width": 80, "initial_indent": "  ", "subsequent_indent": "    "}
_OfStore = Annotated[
    str, typer.Argument(metavar="SUBSET", help="Name of a subset of the store.", show_default=False)
]


def show(
    store: opt.StorePath,
    subset: _OfStore,
    html: Annotated[
        Path | None,
        typer.Option(metavar="PAGE", help="Also write a contact sheet here.", show_default=False),
    ] = None,
    pictures: Annotated[int, typer.Option(help="Most rows on the sheet.", min=1)] = 96,
    language: Annotated[str, typer.Option(help="Language of the captions that are shown first.")] = "en",
    json: opt.Json = False,
) -> None:
    """What a subset is: how it came to be, its concepts and scores, and on a page its pictures."""
    from embedstore.curate.overview import describe_subset
    from embedstore.store import open_store

    opened = open_store(store)
    found = describe_subset(opened, subset)
    if html is not None:
        from embedstore.bench.report import write_text
        from embedstore.recipes.subset_page import subset_page

        write_text(subset_page(opened, subset, shown=pictures, language=language), html)
    if json:
        render.print_json(found.to_dict())
        return
    _print(found)
    if html is not None:
        render.say(f"page: {html}")


def _print(found: Overview) -> None:
    subset = found.subset
    left_out = f", {subset.dropped_count} told of as left out" if subset.dropped_count else ""
    render.heading(f"{subset.name}: {len(subset)} {subset.table}{left_out}")
    for card in subset.cards:
        _print_card(card)
    if found.scores:
        low, median, high = found.scores[0], found.scores[3], found.scores[-1]
        render.say(f"scores {low:.4g} to {high:.4g}, median {median:.4g}")
    for title, values in (
        ("concept", found.concepts),
        ("reason", found.reasons),
        ("came from", found.parents),
        ("left out because", found.dropped_reasons),
    ):
        if values:
            lines = [(value, str(count)) for value, count in list(values.items())[:_VALUES]]
            if len(values) > _VALUES:
                lines.append((f"and {len(values) - _VALUES} more", ""))
            render.table("", (title, "rows"), lines)


def _print_card(card: SubsetCard) -> None:
    render.say(f"made by {card.verb} of store {card.store_fingerprint[:16]}")
    for name, value in card.settings.items():
        each = value if isinstance(value, tuple) else (value,)
        cut = 16 if name.endswith("sha256") else None
        if value not in (None, ()):
            shown = ", ".join(str(part)[:cut] for part in each)
            render.say(textwrap.fill(f"{name.replace('_', ' ')}: {shown}", **_INDENT))
    for parent in card.parents:
        render.say(f"  from the {parent.kind} {parent.name or parent.sha256[:16]}")
    for name, count in card.counts.items():
        render.say(f"  counted, {name.replace('_', ' ')}: {count}")


def list_(
    store: opt.StorePath,
    subset: _OfStore,
    to: Annotated[Path, typer.Option(metavar="FILE", help="What is written.", show_default=False)],
    format: Annotated[  # noqa: A002 - the option's name
        str, typer.Option(help="parquet (rows), webdataset (keys) or img2dataset (URLs).")
    ] = "parquet",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    json: opt.Json = False,
) -> None:
    """Write a subset as a file for other tools."""
    from embedstore.curate.listing import list_subset

    found = list_subset(store, subset, to, format=format, overwrite=overwrite)
    if json:
        render.print_json(found.to_dict())
        return
    render.say(f"{found.lines} lines in {to}")
    if found.left_out:
        render.warn(f"{found.left_out} rows left out: {found.why}")
