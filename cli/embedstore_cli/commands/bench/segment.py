"""`embedstore bench segment`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from embedstore_cli import options as opt
from embedstore_cli import render
from embedstore_cli.commands.bench import common, prompts
from embedstore_cli.commands.bench.zeroshot import print_classes


def segment(
    store: opt.StorePath,
    head: opt.HeadDir,
    image: opt.ImageFeature = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Classes that count, one a line, or label<TAB>words; without it all of the masks.",
            show_default=False,
        ),
    ] = None,
    templates: prompts.Templates = None,
    descriptions: prompts.Descriptions = None,
    background: Annotated[
        str,
        typer.Option(
            metavar="words|COSINE",
            help="What is background: where its word is nearest, or where no class reaches this cosine.",
        ),
    ] = "words",
    convention: Annotated[
        str, typer.Option(help="dataset, or freeze-align: the published figures' IoU of each image.")
    ] = "dataset",
    overlays: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Also draw pictures with their masks there.", show_default=False),
    ] = None,
    overlay_count: Annotated[
        int, typer.Option(min=1, help="How many are drawn, from the worst to the best.")
    ] = 24,
    split: opt.Split = "test",
    rows: opt.Rows = None,
    text_encoder: opt.TextEncoder = None,
    device: opt.Device = "auto",
    seed: opt.Seed = 0,
    out: common.Out = None,
    html: common.Html = None,
    json: opt.Json = False,
) -> None:
    """Segmentation by patch-to-class similarity: mean IoU and pixel accuracy by the store's masks."""
    from embedstore.bench import measure_segment, read_descriptions, read_lines, write_overlays

    render.warn_of_idle_gpu(device)
    with render.progress(quiet=json) as report:
        measured = measure_segment(
            store,
            head,
            image=image,
            split=common.split_of(split),
            rows=rows,
            classes=read_lines(classes) if classes else None,
            templates=prompts.lines_or_imagenet(templates),
            descriptions=None if descriptions is None else read_descriptions(descriptions),
            background=background,
            convention=convention,  # type: ignore[arg-type]  # refused there with what is allowed
            text_encoder=text_encoder,
            device=device,
            seed=seed,
            on_progress=partial(report, "images segmented"),
        )
    common.finish(measured, out, json=json, html=html)
    if not json:
        print_classes(measured.report, metric="IoU")
    drawn = [] if overlays is None else write_overlays(measured.found, overlays, count=overlay_count)
    if drawn and not json:
        render.say(f"overlays: {len(drawn)} in {overlays}")
