"""`embedstore bench retrieval`."""

from __future__ import annotations

from typing import Annotated

import typer

from embedstore_cli import options as opt
from embedstore_cli import render
from embedstore_cli.commands.bench import common


def retrieval(
    store: opt.StorePath,
    head: opt.AnyHeadDir = None,
    image: opt.ImageFeature = None,
    text: opt.TextFeature = None,
    split: opt.Split = "test",
    rows: opt.Rows = None,
    language: opt.Language = "en",
    role: opt.Role = "caption",
    index: Annotated[
        str,
        typer.Option(help="exact; or ivf, hnsw or pq: the first 10 of a FAISS index, with its recall."),
    ] = "exact",
    device: opt.Device = "auto",
    seed: opt.Seed = 0,
    out: common.Out = None,
    html: common.Html = None,
    csv: common.Csv = None,
    json: opt.Json = False,
) -> None:
    """Recall@1, 5 and 10, median and mean rank, image to text and text to image, several captions an image.

    Without --head the stored embeddings of --image and --text are compared: what apply made, or the towers of
    one model.
    """
    from embedstore.bench import measure_retrieval

    with render.progress(quiet=json) as report:
        measured = measure_retrieval(
            store,
            head,
            image=image,
            text=text,
            split=common.split_of(split),
            rows=rows,
            language=language,
            role=role,
            index=index,
            device=device,
            seed=seed,
            on_progress=report,
        )
    common.finish(measured, out, json=json, html=html, csv=csv, names=(store, head))
