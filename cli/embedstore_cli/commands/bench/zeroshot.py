"""`embedstore bench zeroshot`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore_cli import options as opt
from embedstore_cli import render
from embedstore_cli.commands.bench import common, prompts
from embedstore_cli.commands.curate.common import progress

if TYPE_CHECKING:
    from embedstore.documents import BenchReport

WORST, CONFUSED = 10, 5


def zeroshot(
    store: opt.StorePath,
    head: opt.AnyHeadDir = None,
    image: opt.ImageFeature = None,
    text: opt.TextFeature = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|imagenet",
            help="Class names, one a line, or label<TAB>words; or those of ImageNet; without it the store's "
            "labels.",
            show_default=False,
        ),
    ] = None,
    templates: prompts.Templates = None,
    descriptions: prompts.Descriptions = None,
    convention: prompts.Convention = prompts.CONVENTION,
    split: opt.Split = "test",
    rows: opt.Rows = None,
    text_encoder: opt.TextEncoder = None,
    confusion: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Also write how often each class was taken for each other.",
            show_default=False,
        ),
    ] = None,
    device: opt.Device = "auto",
    seed: opt.Seed = 0,
    out: common.Out = None,
    html: common.Html = None,
    csv: common.Csv = None,
    json: opt.Json = False,
) -> None:
    """Zero-shot classification: top-1, top-5 and mean per class.

    Without --head the stored embeddings of --image are compared with prompts through the text tower of the
    same model: that of the feature --text, or --text-encoder.
    """
    from embedstore.bench import confusion_csv, measure_zeroshot, read_descriptions
    from embedstore.bench.report import check_place, write_text

    if confusion is not None:
        check_place(confusion)
    with progress(quiet=json) as report:
        measured = measure_zeroshot(
            store,
            head,
            image=image,
            text=text,
            split=common.split_of(split),
            rows=rows,
            classes=prompts.lines_or_imagenet(classes),
            templates=prompts.lines_or_imagenet(templates),
            descriptions=None if descriptions is None else read_descriptions(descriptions),
            convention=convention,
            text_encoder=text_encoder,
            device=device,
            seed=seed,
            on_progress=report,
        )
    if confusion is not None:
        write_text(confusion_csv(measured.found), confusion)
    common.finish(measured, out, json=json, html=html, csv=csv, names=(store, head))
    if json:
        return
    print_classes(measured.report)
    if confusion is not None:
        render.say(f"confusion matrix: {confusion}")


def print_classes(report: BenchReport, *, metric: str = "recall") -> None:
    """The classes of the lowest recall or IoU, and those that were most often taken for others."""
    worst = sorted(report.per_class.items(), key=lambda one: one[1].value)[:WORST]
    there = len(report.per_class)
    render.table(
        f"lowest {metric} of {there} classes"
        if there > WORST
        else f"{metric} of each class, the lowest first",
        ("", metric, "95 % interval"),
        [(name, _percent(f.value), f"{_percent(f.low)} – {_percent(f.high)}") for name, f in worst],
    )
    if report.confused:
        render.table(
            "most confused",
            ("", "taken for", "images"),
            [
                (pair.label, pair.taken_for, f"{pair.images} of {pair.of}")
                for pair in report.confused[:CONFUSED]
            ],
            words=("taken for",),
        )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
