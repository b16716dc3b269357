"""`embedstore bench ease`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore.errors import UsageError
from embedstore_cli import options as opt
from embedstore_cli import render
from embedstore_cli.commands.bench import common

if TYPE_CHECKING:
    from embedstore.documents import EaseReport, Figure

Names = "NAME[,NAME]"
_TITLES = {
    ("cka", "pearson"): "Pearson, CKA and log loss",
    ("cka", "spearman"): "Spearman, CKA and loss",
    ("cka_unbiased", "pearson"): "Pearson, unbiased CKA and log loss",
    ("cka_unbiased", "spearman"): "Spearman, unbiased CKA and loss",
}


def ease(
    store: Annotated[
        str | None,
        typer.Option(
            metavar="STORE",
            help="All encoder pairs of this store in place of toy worlds.",
            show_default=False,
        ),
    ] = None,
    instances: Annotated[
        int | None, typer.Option(help="Toy worlds; 1000 unless told.", show_default=False)
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(metavar=Names, help="Image features; default: every encoder's.", show_default=False),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(metavar=Names, help="Text features; default: every encoder's.", show_default=False),
    ] = None,
    sample: Annotated[
        int | None, typer.Option(help="Rows of the store; 1000 unless told.", show_default=False)
    ] = None,
    split: Annotated[str, typer.Option(help="Split that is drawn from; 'all' takes every row.")] = "all",
    rows: opt.Rows = None,
    language: opt.Language = "en",
    role: Annotated[str, typer.Option(help="Role of the captions.")] = "caption",
    device: opt.Device = "auto",
    seed: opt.Seed = 0,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.svg", help="Also draw a scatter plot here.", show_default=False),
    ] = None,
    out: common.ReportOut = None,
    html: common.Html = None,
    json: opt.Json = False,
) -> None:
    """Are encoders that see alike easier to align? CKA against the lowest loss of a linear map.

    Random toy worlds as in freeze-align's figure A.2, or with --store all encoder pairs as in its figure 1.
    """
    from embedstore.bench.ease import SAMPLE, ease_of_store, ease_of_toy_worlds
    from embedstore.bench.report import check_place
    from embedstore.recipes.page.standalone import needed_for_plots

    if store is None:
        _refuse_options("a store", "--store STORE", image=image, text=text, sample=sample, rows=rows)
        _refuse_options(
            "a store",
            "--store STORE",
            split=None if split == "all" else split,
            language=None if language == "en" else language,
            role=None if role == "caption" else role,
        )
    else:
        _refuse_options("toy worlds", "leave --store out", instances=instances)
    if plot is not None:
        check_place(plot)
        needed_for_plots()
    with render.bars(quiet=json) as shown:
        if store is None:
            report = ease_of_toy_worlds(
                instances=1000 if instances is None else instances,
                seed=seed,
                device=device,
                progress=lambda done, total: shown.update("toy worlds", done=done, total=total),
            )
        else:
            report = ease_of_store(
                store,
                image=None if image is None else common.words(image, "--image"),
                text=None if text is None else common.words(text, "--text"),
                sample=SAMPLE if sample is None else sample,
                split=common.split_of(split),
                rows=rows,
                language=language,
                role=role,
                seed=seed,
                device=device,
                progress=lambda done, total: shown.update("steps", done=done, total=total),
            )
    _finish(report, plot=plot, out=out, html=html, json=json)


def _finish(
    report: EaseReport, *, plot: Path | None, out: Path | None, html: Path | None, json: bool
) -> None:
    from embedstore.bench.report import write_report, write_text
    from embedstore.recipes.ease_plot import ease_svg

    if plot is not None:
        write_text(ease_svg(report), plot)
    if out is not None:
        write_report(report, out)
    if html is not None:
        common.write_page([report], html, json=json)
    if json:
        render.print_json(report.to_json())
        return
    _show(report)
    for path in (plot, out, html):
        if path is not None:
            render.say(f"written: {path}")


def _show(report: EaseReport) -> None:
    if report.store_fingerprint is not None:
        render.table(
            f"{len(report.points)} encoder pairs, {report.vectors} pictures with captions",
            ("image", "text", "CKA", "unbiased", "lowest loss"),
            [
                (p.image, p.text, f"{p.cka:.3f}", f"{p.cka_unbiased:.3f}", f"{p.loss:.3f}")
                for p in sorted(report.points, key=lambda p: p.loss)
            ],
            words=("text",),
        )
    else:
        render.heading(
            f"{len(report.points)} toy worlds of {report.vectors} vectors, {report.width} wide, seed "
            f"{report.seed}"
        )
        for name, values in (
            ("CKA", [p.cka for p in report.points]),
            ("lowest loss", [p.loss for p in report.points]),
        ):
            render.say(f"{name}: {min(values):.3f} to {max(values):.3f}")
    if report.metrics:
        render.say()
        render.table(
            "",
            ("correlation of", "value", "95 % interval"),
            [
                (_TITLES[kind, name], f"{figure.value:.3f}", _span(figure))
                for kind, figures in report.metrics.items()
                for name, figure in figures.items()
            ],
        )
        render.say(_verdict(report.metrics["cka"]["pearson"]))
    for note in report.notes:
        render.warn(note)
    for reason, count in report.skipped.items():
        render.warn(f"{count} rows left out: {reason}")


def _verdict(found: Figure) -> str:
    if found.high < 0:
        return "the more alike, the lower the loss: the interval excludes 0"
    if found.low > 0:
        return "the more alike, the higher the loss: the interval excludes 0"
    return "the interval holds 0: these points do not tell"


def _span(figure: Figure) -> str:
    return f"{figure.low:.3f} – {figure.high:.3f}"


def _refuse_options(of: str, todo: str, **given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise UsageError(f"this is an option of {of}", where=f"--{name}", found=value, todo=todo)
