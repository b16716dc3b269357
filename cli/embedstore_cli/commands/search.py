"""`embedstore search`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore_cli import options as opt
from embedstore_cli import render

if TYPE_CHECKING:
    from embedstore.recipes.search import SearchResult


def search(
    store: opt.StorePath,
    query: Annotated[
        str,
        typer.Argument(metavar="QUERY", help="Words, or the file of a picture.", show_default=False),
    ],
    head: opt.HeadDir,
    top: Annotated[int, typer.Option(help="How many answers.")] = 10,
    table: Annotated[str, typer.Option(help="What is searched: images or texts.")] = "images",
    feature: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Feature that is searched; without it what apply made, or else the cached tokens.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Split that is searched; 'all' takes every row.")] = "all",
    rows: opt.Rows = None,
    language: Annotated[str, typer.Option(help="Language of the captions that are shown first.")] = "en",
    words: Annotated[
        bool, typer.Option("--words", help="Search for the words, also where a file has that name.")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(metavar="PAGE", help="Also write a page with pictures here.", show_default=False),
    ] = None,
    image_encoder: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC", help="Where the head's image encoder is, if not remembered.", show_default=False
        ),
    ] = None,
    text_encoder: opt.TextEncoder = None,
    device: opt.Device = "auto",
    json: opt.Json = False,
) -> None:
    """Find the pictures (or texts) of a store that are nearest to words or to a picture."""
    from embedstore.recipes.search import query_of, search_store

    asked = query_of(query, words=words)
    render.warn_of_idle_gpu(device)
    found = search_store(
        store,
        head,
        asked,
        table=table,
        top=top,
        feature=feature,
        split=None if split == "all" else split,
        rows=rows,
        language=language,
        image_encoder=image_encoder,
        text_encoder=text_encoder,
        device=device,
    )
    if html is not None:
        from embedstore.bench.report import write_text
        from embedstore.recipes.search_page import search_page

        write_text(search_page(found), html)
    render.print_json(found.to_dict()) if json else _show(found, html)


def _show(found: SearchResult, html: Path | None) -> None:
    lines = [
        (answer.rank, f"{answer.score:.3f}", answer.id, answer.texts[0] if answer.texts else "")
        for answer in found.answers
    ]
    shown = "caption" if found.table == "images" else "text"
    render.table("", ("", "score", "id", shown), lines, words=("id", shown))
    how = "stored embeddings" if found.applied else "cached tokens"
    render.say(f"{found.searched} {found.table} compared, {how} of {found.feature}")
    if found.left_out:
        render.warn(f"{found.left_out} {found.table} left out: they could not be read")
    if html is not None:
        render.say(f"page: {html}")
