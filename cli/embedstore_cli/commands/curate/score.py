"""`embedstore curate score`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from embedstore.errors import UsageError
from embedstore_cli import options as opt
from embedstore_cli import render
from embedstore_cli.commands.curate import common


def score(
    store: opt.StorePath,
    name: common.SubsetName,
    head: opt.AnyHeadDir = None,
    image: opt.ImageFeature = None,
    text: opt.TextFeature = None,
    keep: Annotated[
        float | None,
        typer.Option(help="Keep this share of the scored rows, 0 to 1, rounded up.", show_default=False),
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(help="Or all from this cosine on.", show_default=False)
    ] = None,
    concepts: Annotated[
        str | None,
        typer.Option(
            metavar="labels|SUBSET",
            help="--keep is of the rows of each concept: of each label, or of each concept of a subset.",
            show_default=False,
        ),
    ] = None,
    captions: Annotated[
        str, typer.Option(help="An image's score: of its best, mean or first text.")
    ] = "best",
    table: Annotated[str, typer.Option(help="What is chosen: images or texts.")] = "images",
    role: Annotated[str, typer.Option(help="Role of the texts, or all.")] = "caption",
    language: Annotated[str, typer.Option(help="Language of the texts, or all.")] = "en",
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="SVG", help="Also draw the scores and the cut into this file.", show_default=False
        ),
    ] = None,
    rows: common.Rows = None,
    overwrite: common.Overwrite = False,
    device: opt.Device = "auto",
    json: opt.Json = False,
) -> None:
    """Keep the rows whose image and text agree most: cosine through a head, or of stored embeddings."""
    from embedstore.curate.score import score_rows

    if plot is not None and (plot.is_dir() or not plot.parent.is_dir()):
        raise UsageError("cannot write the plot", where=plot, todo="name a file in a folder that is there")
    if head is not None:
        render.warn_of_idle_gpu(device)
    with common.progress(quiet=json) as report:
        found = score_rows(
            store,
            name=name,
            head=head,
            image=image,
            text=text,
            keep=keep,
            min_score=min_score,
            concepts=concepts,
            captions=captions,
            table=table,
            role=role,
            language=language,
            rows=rows,
            overwrite=overwrite,
            device=device,
            on_progress=partial(report, "images scored"),
        )
    if plot is not None:
        from embedstore.bench.report import write_text
        from embedstore.recipes.score_chart import score_chart

        write_text(score_chart(found), plot)
    lines = [f"scores of {len(found.rows)}: {found.scores.min():.4f} to {found.scores.max():.4f}"]
    lines += [f"cut at {found.cut:.4f}"] if found.cut is not None else []
    lines += [f"left out, {why.replace('_', ' ')}: {count}" for why, count in found.left_out.items()]
    common.finish(found.subset, [*lines, *([f"plot: {plot}"] if plot else [])], json=json)
