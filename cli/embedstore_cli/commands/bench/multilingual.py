"""`embedstore bench multilingual`."""

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

COLUMNS = (
    ("text_to_image", "recall@1", "t→i R@1"),
    ("text_to_image", "recall@5", "R@5"),
    ("text_to_image", "recall@10", "R@10"),
    ("image_to_text", "recall@1", "i→t R@1"),
    ("image_to_text", "recall@5", "R@5"),
    ("image_to_text", "recall@10", "R@10"),
    ("image_to_class", "top-1", "top-1"),
)


def multilingual(
    store: opt.StorePath,
    head: opt.AnyHeadDir = None,
    image: opt.ImageFeature = None,
    text: opt.TextFeature = None,
    languages: Annotated[str, typer.Option(metavar="de,fr|all", help="Which, in this order.")] = "all",
    classes: Annotated[
        Path | None,
        typer.Option(
            metavar="JSON",
            help="Class names by language, for zero-shot: language -> label -> words.",
            show_default=False,
        ),
    ] = None,
    templates: Annotated[
        Path | None,
        typer.Option(
            metavar="JSON",
            help="Prompts by language, with {} for the class; without it the names alone.",
            show_default=False,
        ),
    ] = None,
    convention: prompts.Convention = prompts.CONVENTION,
    split: opt.Split = "test",
    rows: opt.Rows = None,
    text_encoder: opt.TextEncoder = None,
    device: opt.Device = "auto",
    seed: opt.Seed = 0,
    out: common.Out = None,
    html: common.Html = None,
    csv: common.Csv = None,
    json: opt.Json = False,
) -> None:
    """Retrieval in each language of the texts, zero-shot in each of --classes, and the averages.

    Without --head the stored embeddings of --image and --text are compared, as in retrieval and zeroshot.
    """
    from embedstore.bench import measure_multilingual, read_language_classes, read_language_templates

    with progress(quiet=json) as report:
        measured = measure_multilingual(
            store,
            head,
            image=image,
            text=text,
            split=common.split_of(split),
            languages=None if languages == "all" else common.words(languages, "--languages"),
            language_classes=None if classes is None else read_language_classes(classes),
            language_templates=None if templates is None else read_language_templates(templates),
            convention=convention,
            rows=rows,
            text_encoder=text_encoder,
            device=device,
            seed=seed,
            on_progress=report,
        )
    common.finish(measured, out, json=json, html=html, csv=csv, names=(store, head), show=by_language)


def by_language(report: BenchReport) -> None:
    """A line a language, in percent; the averages last."""
    there = [column for column in COLUMNS if any(g.startswith(f"{column[0]}/") for g in report.metrics)]
    parts = dict.fromkeys(group.partition("/")[2] for group in report.metrics)
    averages = [part for part in parts if part.startswith("average")]
    rows = []
    for part in [*(part for part in parts if part not in averages), *averages]:
        line = [part]
        for direction, metric, _ in there:
            figure = report.metrics.get(f"{direction}/{part}", {}).get(metric)
            line.append("" if figure is None else f"{100 * figure.value:.1f}")
        rows.append(line)
    render.table(
        f"multilingual: {render.counted(report)}, in percent", ("", *(name for *_, name in there)), rows
    )
    render.remarks(report)
