"""`embedstore compact`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedstore_cli import options as opt
from embedstore_cli import render


def compact(
    store: opt.StorePath,
    to: Annotated[
        str, typer.Option("--to", metavar="NEW", help="Folder of the new store.", show_default=False)
    ],
    drop: Annotated[
        str | None,
        typer.Option(
            metavar="SUBSET|FILE",
            help="Rows that go: a subset of the store, or a file of ids: text (one a line), CSV or Parquet "
            "(column id). An image goes with its texts. Without it every row is kept, which merges A+B for "
            "good.",
            show_default=False,
        ),
    ] = None,
    feature: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Take only this feature; repeatable. \\[default: all]"),
    ] = None,
    json: opt.Json = False,
) -> None:
    """Copy a store (or A+B) without some rows; values stay equal to the bit, and no encoder is needed.

    NEW is there when it is complete and compared with the old store. After an interruption run it again.
    """
    from embedstore.store import compact_store, open_store, read_ids

    ids: str | list[str] = drop or []
    if drop is not None and drop not in open_store(store).subsets() and Path(drop).is_file():
        ids = read_ids(drop)
    with render.bars(quiet=json) as bars:
        report = compact_store(
            store,
            to,
            drop=ids,
            features=feature or None,
            on_progress=lambda name, done, total: bars.update(name, done=done, total=total),
        )
    if json:
        render.print_json(report.to_dict())
        return
    render.say(
        f"{to}: {report.images} images, {report.texts} texts, {render.size(report.nbytes)}; "
        f"left out {report.dropped_images} images and {report.dropped_texts} texts"
    )
