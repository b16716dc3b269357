"""`embedstore bench speed`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from embedstore_cli import options as opt
from embedstore_cli import render
from embedstore_cli.commands.bench import common, rates

if TYPE_CHECKING:
    from embedstore.recipes.speed.measure import Part


def speed(
    store: opt.StorePath,
    part: Annotated[
        list[str] | None,
        typer.Option(
            metavar="images|texts|fit", help="A part; again for more. Default: all.", show_default=False
        ),
    ] = None,
    image: opt.ImageFeature = None,
    text: opt.TextFeature = None,
    image_encoder: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC", help="Where the image encoder is, if not remembered.", show_default=False
        ),
    ] = None,
    text_encoder: opt.TextEncoder = None,
    source: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Pictures to encode, in place of the store's thumbnails.",
            show_default=False,
        ),
    ] = None,
    encode_batch: Annotated[
        int | None,
        typer.Option("--batch-size", help="Pictures in one forward pass.", show_default=False),
    ] = None,
    fit_batch: Annotated[
        int | None, typer.Option(help="Pairs in one step of the fit.", show_default=False)
    ] = None,
    language: opt.Language = "en",
    device: opt.Device = "auto",
    repeats: rates.Repeats = 5,
    seed: opt.Seed = 0,
    out: common.ReportOut = None,
    html: common.Html = None,
    json: opt.Json = False,
) -> None:
    """How fast this machine encodes and fits, stage by stage, beside its limits.

    The limits are the bare forward pass and bare matrix products, measured in turns with the stages.
    """
    from embedstore.recipes.speed import PARTS, measure_speed

    if not json:
        render.warn_of_idle_gpu(device)
    with render.bars(quiet=json) as shown:
        report = measure_speed(
            store,
            parts=PARTS if part is None else cast("list[Part]", part),
            image=image,
            text=text,
            image_encoder=image_encoder,
            text_encoder=text_encoder,
            source=source,
            encode_batch=encode_batch,
            fit_batch=fit_batch,
            language=language,
            device=device,
            repeats=repeats,
            seed=seed,
            progress=lambda name, done, total: shown.update("parts", done=done, total=total, note=name),
        )
    rates.finish(report, out, json=json, html=html)
