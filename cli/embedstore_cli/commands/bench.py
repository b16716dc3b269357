"""`embedstore bench TASK`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore.bench import TASKS
from embedstore_cli import options as opt
from embedstore_cli import render

if TYPE_CHECKING:
    from embedstore.documents import BenchReport

app = typer.Typer(help="Measure what a fitted head is worth.", no_args_is_help=True)
Out = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Also write the report here.", show_default=False)
]


@app.command()
def retrieval(
    store: opt.StorePath,
    head: opt.AnyHeadDir = None,
    image: opt.ImageFeature = None,
    text: opt.TextFeature = None,
    split: opt.Split = "test",
    rows: opt.Rows = None,
    language: opt.Language = "en",
    device: opt.Device = "auto",
    seed: opt.Seed = 0,
    out: Out = None,
    json: opt.Json = False,
) -> None:
    """Recall@1, 5 and 10, image to text and text to image, exact, several captions an image.

    Without --head the stored embeddings of --image and --text are compared: what apply made, or the towers of
    one model.
    """
    from embedstore.bench import bench_retrieval

    report = bench_retrieval(
        store,
        head,
        image=image,
        text=text,
        split=_rows_of(split),
        rows=rows,
        language=language,
        device=device,
        seed=seed,
    )
    _finish(report, out, json=json)


@app.command()
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
    out: Out = None,
    json: opt.Json = False,
) -> None:
    """Zero-shot classification: top-1, top-5 and mean per class."""
    from embedstore.bench import bench_zeroshot, read_lines

    report = bench_zeroshot(
        store,
        head,
        split=_rows_of(split),
        rows=rows,
        classes=read_lines(classes) if classes else None,
        templates=read_lines(templates) if templates else None,
        text_encoder=text_encoder,
        device=device,
        seed=seed,
    )
    _finish(report, out, json=json)


def plug_in(name: str) -> None:
    """Give a task that has no command of its own one with the options that every task has."""

    def task(
        store: opt.StorePath,
        head: opt.HeadDir,
        split: opt.Split = "test",
        device: opt.Device = "auto",
        seed: opt.Seed = 0,
        out: Out = None,
        json: opt.Json = False,
    ) -> None:
        report = TASKS.load(name)(store, head, split=_rows_of(split), device=device, seed=seed)
        _finish(report, out, json=json)

    app.command(name, help=f"The task {name!r} of another package.")(task)


def _rows_of(split: str) -> str | None:
    return None if split == "all" else split


def _finish(report: BenchReport, out: Path | None, *, json: bool) -> None:
    from embedstore.bench import write_report

    if out is not None:
        write_report(report, out)
    if json:
        render.print_json(report.to_json())
        return
    render.report(report)
    if out is not None:
        render.say(f"report: {out}")


for _name in sorted(set(TASKS.names()) - {"retrieval", "zeroshot"}):
    plug_in(_name)
