"""`embedstore curate prototypes`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore_cli import options as opt
from embedstore_cli import render
from embedstore_cli.commands.curate import common

if TYPE_CHECKING:
    from embedstore.curate import Prototypes


def prototypes(
    store: opt.StorePath,
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="Name of the prototypes.", show_default=False)
    ],
    source: Annotated[
        str, typer.Option("--from", help="images: few labelled ones a concept; texts: prompts with its name.")
    ] = "images",
    shots: Annotated[int, typer.Option(help="Most images of a concept.")] = 128,
    classes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Concepts, one a line, or label<TAB>words; without it the store's labels.",
            show_default=False,
        ),
    ] = None,
    templates: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Prompts, one a line, with {} for a concept.", show_default=False),
    ] = None,
    feature: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Feature whose pooled embeddings are read.", show_default=False),
    ] = None,
    head: opt.AnyHeadDir = None,
    split: Annotated[str, typer.Option(help="Split of the images; 'all' takes every row.")] = "all",
    rows: common.Rows = None,
    text_encoder: opt.TextEncoder = None,
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    overwrite: common.Overwrite = False,
    json: opt.Json = False,
) -> None:
    """Make a prototype of each concept: the mean of a few labelled images, or of prompts with its name."""
    from embedstore.curate import prototypes_of_images, prototypes_of_texts
    from embedstore.errors import UsageError
    from embedstore.model.classes import read_lines

    lines = read_lines(classes) if classes else None
    if source == "images":
        if templates is not None:
            raise UsageError("templates are for class names", where="--templates", todo="add --from texts")
        made = prototypes_of_images(
            store,
            name,
            shots=shots,
            classes=lines,
            feature=feature,
            head=head,
            split=None if split == "all" else split,
            rows=rows,
            seed=seed,
            device=device,
            overwrite=overwrite,
        )
    elif source == "texts":
        if rows is not None or split != "all":
            raise UsageError("--rows and --split choose images", todo="leave them out, or use --from images")
        made = prototypes_of_texts(
            store,
            name,
            classes=lines,
            templates=read_lines(templates) if templates else None,
            feature=feature,
            head=head,
            text_encoder=text_encoder,
            device=device,
            overwrite=overwrite,
        )
    else:
        raise UsageError("unknown source", where="--from", found=source, allowed="images, texts")
    render.print_json(made.to_dict()) if json else _show(made)


def _show(made: Prototypes) -> None:
    card = made.card
    counts = card.counts
    render.say(f"{card.name}: {len(card.concepts)} concepts, {card.width} wide, each of {card.each}")
    for reason, count in card.left_out.items():
        render.warn(f"{count} images {reason}")
    if card.empty:
        shown = ", ".join(card.empty[:10]) + (", ..." if len(card.empty) > 10 else "")
        render.warn(f"{len(card.empty)} concepts have no image and are left out: {shown}")
    shots = card.settings.get("shots")
    few = [c for c, n in zip(card.concepts, counts, strict=True) if isinstance(shots, int) and n < shots]
    if few:
        render.say(f"{len(few)} concepts have fewer than {shots} images")
