"""`embedstore curate pairs`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from embedstore.errors import UsageError
from embedstore_cli import options as opt
from embedstore_cli import render

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedstore.documents import Figure, PairsReport

Names = "NAME[,NAME]"
_TITLES = {"linear": "CKA", "linear-biased": "CKA (biased)", "rbf": "RBF CKA", "knn": "k-NN overlap"}


def pairs(
    store: opt.StorePath,
    image: Annotated[
        str | None,
        typer.Option(metavar=Names, help="Image features; default: every encoder's.", show_default=False),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(metavar=Names, help="Text features; default: every encoder's.", show_default=False),
    ] = None,
    by: Annotated[
        Literal["linear", "linear-biased", "rbf", "knn"], typer.Option(help="The measure of the order.")
    ] = "linear",
    split: Annotated[str, typer.Option(help="Split that is compared; 'all' takes every row.")] = "all",
    rows: opt.Rows = None,
    language: opt.Language = "en",
    role: Annotated[str, typer.Option(help="Role of the captions.")] = "caption",
    captions: Annotated[
        Literal["mean", "first"], typer.Option(help="Of several captions of a picture.")
    ] = "mean",
    image_vector: Annotated[
        Literal["tokens", "cls", "pooled"] | None,
        typer.Option(
            metavar="KIND",
            help="tokens (mean of CLS and patches; default), cls or pooled.",
            show_default=False,
        ),
    ] = None,
    text_vector: Annotated[
        Literal["tokens", "pooled"] | None,
        typer.Option(
            metavar="KIND", help="pooled (default) or tokens (mean over each text's).", show_default=False
        ),
    ] = None,
    sample: Annotated[
        int, typer.Option(help="Rows for RBF CKA, k-NN and all intervals; linear CKA takes all rows.")
    ] = 2000,
    k: Annotated[int, typer.Option("--k", help="Neighbours of a row for the k-NN overlap.")] = 10,
    seed: opt.Seed = 0,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Also draw the matrix here.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the report here.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace these files.")] = False,
    json: opt.Json = False,
) -> None:
    """Rank pairs of an image and a text encoder by how alike they see the same rows; says which to fit."""
    from embedstore.curate import pairs_svg, rank_pairs

    files = [path for path in (plot, out) if path is not None]
    for path in files:
        _refuse_place(path, overwrite=overwrite)
    with render.bars(quiet=json) as shown:
        report = rank_pairs(
            store,
            image=_names(image, "--image"),
            text=_names(text, "--text"),
            by=by,
            split=None if split == "all" else split,
            rows=rows,
            language=language,
            role=role,
            captions=captions,
            image_vector=image_vector,
            text_vector=text_vector,
            sample=sample,
            neighbours=k,
            seed=seed,
            progress=lambda done, total: shown.update("pictures", done=done, total=total),
        )
    if plot is not None:
        _write(plot, pairs_svg(report))
    if out is not None:
        _write(out, report.to_json())
    if json:
        render.print_json(report.to_json())
        return
    _show(report)
    for path in files:
        render.say(f"written: {path}")


def _show(report: PairsReport) -> None:
    rows = [
        (
            pair.image,
            pair.text,
            f"{pair.linear.value:.3f}",
            _span(pair.linear),
            f"{pair.linear_biased.value:.3f}",
            f"{pair.rbf.value:.3f}",
            f"{pair.knn.value:.3f}",
        )
        for pair in report.pairs
    ]
    where = f"split {report.split}" if report.split else "all rows"
    where += f", rows {report.rows.name}" if report.rows else ""
    render.table(
        f"{report.images} pictures, {report.texts} captions ({report.captions}), {where}",
        ("image", "text", "CKA", "95 %", "biased", "RBF", f"{report.neighbours}-NN"),
        rows,
        words=("text",),
    )
    for line in _verdict(report):
        render.say(line)
    if report.sample < report.images:
        render.say(f"RBF, k-NN and intervals: {report.sample} of these pictures, seed {report.seed}")
    for reason, count in report.skipped.items():
        render.warn(f"{count} rows left out: {reason}")


def _verdict(report: PairsReport) -> list[str]:
    """Which pair to fit, and whether that is more than noise."""
    first, *others = report.pairs
    fit = f"fit {first.image} + {first.text}"
    if not others:
        return [f"{fit}: the only pair"]
    name = _TITLES[report.by]
    if not report.level:
        second = others[0].behind
        ahead = f", {second.value:.3f} ({_span(second)}) before the next" if second else ""
        return [f"{fit}: the highest {name}{ahead}"]
    level = ", ".join(f"{image} + {text}" for image, text in report.level)
    return [
        f"{fit}, or as well: {level}",
        f"their {name} differs by no more than these {report.images} pictures leave to chance",
    ]


def _span(figure: Figure) -> str:
    return f"{figure.low:.3f} – {figure.high:.3f}"


def _names(text: str | None, option: str) -> Sequence[str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise UsageError("a name is empty", where=option, found=text, allowed="NAME or NAME,NAME")
    return names


def _refuse_place(path: Path, *, overwrite: bool) -> None:
    """Before the work, not after it."""
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError("cannot write the file", where=path, todo="name a file in a folder that is there")
    if path.exists() and not overwrite:
        raise UsageError("the file is there already", where=path, todo="replace it with --overwrite")


def _write(path: Path, text: str) -> None:
    from embedstore.store import files

    files.replace(path, text.encode())
