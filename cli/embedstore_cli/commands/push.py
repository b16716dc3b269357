"""`embedstore push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedstore_cli import options as opt
from embedstore_cli import render


def push(
    head: opt.Head,
    to: Annotated[
        str,
        typer.Option(
            metavar="FOLDER|user/name",
            help="A folder, or a model on the hub; ./NAME is always a folder, hf:user/name always the hub.",
            show_default=False,
        ),
    ],
    report: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Report of a bench, for the model card; may be repeated.", show_default=False
        ),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option("--license", "--licence", help="Such as apache-2.0.", show_default=False),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="A model that only you can read.")] = False,
    revision: Annotated[
        str | None, typer.Option(help="Branch of the model; the main one if not given.", show_default=False)
    ] = None,
    message: Annotated[str | None, typer.Option(help="Of the commit.", show_default=False)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files in FOLDER.")] = False,
    json: opt.Json = False,
) -> None:
    """Publish a head with a model card: as a folder, or on the Hugging Face hub in one commit.

    The token is that of 'hf auth login' or HF_TOKEN. Files that are there already are not uploaded again.
    """
    from embedstore.model.publishing import push_head

    pushed = push_head(
        head,
        to,
        reports=report or [],
        licence=licence,
        private=private,
        revision=revision,
        message=message,
        overwrite=overwrite,
    )
    if json:
        render.print_json(pushed.to_dict())
        return
    if pushed.changed:
        render.say(f"{'uploaded' if pushed.url else 'wrote'} {', '.join(pushed.changed)}")
    if pushed.unchanged:
        render.say(f"there already: {', '.join(pushed.unchanged)}")
    render.say(pushed.url or pushed.place)
    if licence is None:
        render.warn("no licence is stated: --license apache-2.0, say")
