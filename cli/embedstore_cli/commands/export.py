"""`embedstore export`."""

from __future__ import annotations

from typing import Annotated

import typer

from embedstore_cli import options as opt
from embedstore_cli import render


def export(
    store: opt.StorePath,
    feature: Annotated[
        str, typer.Option(metavar="NAME[,NAME]", help="Features to write.", show_default=False)
    ],
    to: Annotated[
        str,
        typer.Option(
            metavar="KIND:PATH",
            help="clip-retrieval, parquet, arrow, npy, safetensors, datasets or lance, and where.",
            show_default=False,
        ),
    ],
    array: Annotated[str, typer.Option(help="pooled, tokens, cls or mean.")] = "pooled",
    split: Annotated[
        str | None, typer.Option(help="Split of the pictures; every row if not given.", show_default=False)
    ] = None,
    rows: opt.Rows = None,
    dtype: Annotated[str, typer.Option(help="float16 or float32.")] = "float16",
    language: opt.Language = "en",
    part_rows: Annotated[int, typer.Option(help="Lines of one part in clip-retrieval's layout.")] = 1_000_000,
    json: opt.Json = False,
) -> None:
    """Write embeddings with their ids and captions in a layout that other tools read.

    The output is whole or not there, and nothing is overwritten.
    """
    from embedstore.interchange import ExportOptions, export_rows

    options = ExportOptions(
        array=array,  # type: ignore[arg-type]  # checked by the options themselves
        dtype=dtype,  # type: ignore[arg-type]  # checked by the options themselves
        split=split,
        rows=rows,
        language=language,
        part_rows=part_rows,
    )
    with render.bars(quiet=json) as bars:
        summary = export_rows(
            store,
            to,
            features=[name.strip() for name in feature.split(",")],
            options=options,
            on_progress=lambda done, total: bars.update("export", done=done, total=total),
        )
    if json:
        render.print_json(summary.to_dict())
        return
    for reason, count in summary.skipped.items():
        render.warn(f"left out: {count} {reason}")
    columns = ", ".join(
        f"{name} {' × '.join('tokens' if size is None else str(size) for size in shape)}"
        for name, shape in summary.columns.items()
    )
    render.say(f"{summary.name}: {summary.rows} rows of {columns}, {render.size(summary.nbytes)}")
