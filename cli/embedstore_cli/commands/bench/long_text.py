"""`embedstore bench long-text`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedstore_cli import options as opt
from embedstore_cli import render
from embedstore_cli.commands.bench import common


def long_text(
    store: opt.StorePath,
    head: opt.HeadDir,
    image: opt.ImageFeature = None,
    text: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME",
            help="Text features; default: all that differ from the head's in max_length alone.",
            show_default=False,
        ),
    ] = None,
    split: opt.Split = "test",
    rows: opt.Rows = None,
    language: opt.Language = "en",
    role: opt.Role = "long",
    device: opt.Device = "auto",
    seed: opt.Seed = 0,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.svg", help="Also draw recall@1 over the limit here.", show_default=False),
    ] = None,
    out: common.Out = None,
    html: common.Html = None,
    json: opt.Json = False,
) -> None:
    """Retrieval of long texts as more tokens of them are read: one feature for each limit, one head.

    Encode at several limits first: --text-encoder 'NAME=SPEC?max_length=32,64,128'.
    """
    from embedstore.bench import measure_long_text
    from embedstore.bench.report import check_place, write_text
    from embedstore.recipes.chapters.figures import curves
    from embedstore.recipes.page.content import measures_of
    from embedstore.recipes.page.standalone import needed_for_plots, on_white

    if plot is not None:
        check_place(plot)
        needed_for_plots()
    with render.progress(quiet=json) as report:
        measured = measure_long_text(
            store,
            head,
            image=image,
            texts=[name.strip() for name in text.split(",")] if text else None,
            split=common.split_of(split),
            rows=rows,
            language=language,
            role=role,
            device=device,
            seed=seed,
            on_progress=report,
        )
    if plot is not None:
        write_text(on_white(curves(measured.report, measures_of(measured.report))[0]), plot)
    common.finish(measured, out, html=html, json=json)
    if plot is not None and not json:
        render.say(f"plot: {plot}")
