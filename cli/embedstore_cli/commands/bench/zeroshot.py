"""`embedstore bench zeroshot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedstore_cli import options as opt
from embedstore_cli.commands.bench import common


def zeroshot(
    store: opt.StorePath,
    head: opt.HeadDir,
    classes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Class names, one a line, or label<TAB>words; without it the store's labels.",
            show_default=False,
        ),
    ] = None,
    templates: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Prompts, one a line, with {} for the class.", show_default=False),
    ] = None,
    split: opt.Split = "test",
    rows: opt.Rows = None,
    text_encoder: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC", help="Where the head's text encoder is, if not remembered.", show_default=False
        ),
    ] = None,
    device: opt.Device = "auto",
    seed: opt.Seed = 0,
    out: common.Out = None,
    html: common.Html = None,
    csv: common.Csv = None,
    json: opt.Json = False,
) -> None:
    """Zero-shot classification: top-1, top-5 and mean per class."""
    from embedstore.bench import measure_zeroshot, read_lines

    measured = measure_zeroshot(
        store,
        head,
        split=common.split_of(split),
        rows=rows,
        classes=read_lines(classes) if classes else None,
        templates=read_lines(templates) if templates else None,
        text_encoder=text_encoder,
        device=device,
        seed=seed,
    )
    common.finish(measured, out, json=json, html=html, csv=csv, names=(store, head))
