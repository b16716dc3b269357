"""`embedstore bench probe`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from embedstore.errors import UsageError
from embedstore_cli import options as opt
from embedstore_cli import render
from embedstore_cli.commands.bench import common

if TYPE_CHECKING:
    from embedstore.bench.probing.methods import Shots


def probe(
    store: opt.StorePath,
    head: opt.AnyHeadDir = None,
    on: Annotated[
        str | None,
        typer.Option(
            help="encoder or head: what is probed; by default the head where one is given.",
            show_default=False,
        ),
    ] = None,
    vector: Annotated[
        str | None,
        typer.Option(
            help="Of the encoder: pooled (if nothing is said), cls, mean (of the patches) or cls+mean.",
            show_default=False,
        ),
    ] = None,
    image: opt.ImageFeature = None,
    shots: Annotated[str, typer.Option(help="Training images of each class, or all.")] = "1,2,4,8,16,all",
    methods: Annotated[str, typer.Option(help="knn, linear.")] = "knn,linear",
    neighbours: Annotated[str, typer.Option(help="Neighbours that vote in knn.")] = "10,20",
    repeats: Annotated[int, typer.Option(help="How often few shots are drawn.")] = 5,
    split: opt.Split = "test",
    train_split: Annotated[str, typer.Option(help="Split that is trained on, or all.")] = "train",
    train_rows: Annotated[
        str | None,
        typer.Option(
            metavar="SUBSET|FILE", help="Train only on these: a subset, or a file of ids.", show_default=False
        ),
    ] = None,
    rows: opt.Rows = None,
    device: opt.Device = "auto",
    seed: opt.Seed = 0,
    out: common.Out = None,
    html: common.Html = None,
    csv: common.Csv = None,
    json: opt.Json = False,
) -> None:
    """k-NN and linear probe by labels, few-shot and full: of a frozen encoder, or through a head."""
    from embedstore.bench import measure_probe

    render.warn_of_idle_gpu(device)
    with render.progress(quiet=json) as report:
        measured = measure_probe(
            store,
            head,
            on=on,
            vector=vector,
            image=image,
            shots=[_shots(word) for word in shots.split(",")],
            methods=[word.strip() for word in methods.split(",")],
            neighbours=[_number(word, "--neighbours") for word in neighbours.split(",")],
            repeats=repeats,
            split=common.split_of(split),
            train_split=common.split_of(train_split),
            train_rows=train_rows,
            rows=rows,
            device=device,
            seed=seed,
            on_progress=report,
        )
    common.finish(measured, out, json=json, html=html, csv=csv, names=(store, head))


def _shots(word: str) -> Shots:
    return "all" if word.strip() == "all" else _number(word, "--shots")


def _number(word: str, option: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise UsageError("not a whole number", where=option, found=repr(word)) from None
