"""`embedstore bench negatives`."""

from __future__ import annotations

from embedstore_cli import options as opt
from embedstore_cli import render
from embedstore_cli.commands.bench import common


def negatives(
    store: opt.StorePath,
    head: opt.AnyHeadDir = None,
    image: opt.ImageFeature = None,
    text: opt.TextFeature = None,
    split: opt.Split = "test",
    rows: opt.Rows = None,
    language: opt.Language = "en",
    device: opt.Device = "auto",
    seed: opt.Seed = 0,
    out: common.Out = None,
    html: common.Html = None,
    csv: common.Csv = None,
    json: opt.Json = False,
) -> None:
    """Captions against altered captions (SugarCrepe, sDCI): accuracy by category, equal scores half.

    Without --head the stored embeddings of --image and --text are compared.
    """
    from embedstore.bench import measure_negatives

    with render.progress(quiet=json) as report:
        measured = measure_negatives(
            store,
            head,
            image=image,
            text=text,
            split=common.split_of(split),
            rows=rows,
            language=language,
            device=device,
            seed=seed,
            on_progress=report,
        )
    common.finish(measured, out, html=html, csv=csv, names=(store, head), json=json)
