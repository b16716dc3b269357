"""`embedstore import`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from embedstore.errors import UsageError
from embedstore_cli import options as opt
from embedstore_cli import render

if TYPE_CHECKING:
    from embedstore.interchange import ImportSummary


def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="KIND:PATH",
            help="clip-retrieval:FOLDER, or a npy, npz, pt, safetensors, h5, parquet or arrow file.",
            show_default=False,
        ),
    ],
    store: opt.OneStore,
    name: Annotated[
        str, typer.Option("--as", metavar="NAME", help="Name of the feature.", show_default=False)
    ],
    model: Annotated[
        str,
        typer.Option(help="What made the numbers, e.g. openai/clip-vit-base-patch32.", show_default=False),
    ],
    modality: Annotated[str, typer.Option(help="What the rows are embeddings of: image or text.")] = "image",
    ids: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|KEY",
            help="Ids of the rows: a txt, csv, tsv, jsonl, parquet or arrow file, or an array of the file.",
            show_default=False,
        ),
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Array to take from a file that holds several.", show_default=False)
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(
            metavar="KEY|full",
            help="Array with the real tokens of each text; full: no text is padded.",
            show_default=False,
        ),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OURS=THEIRS",
            help="Name of a column: id, embedding, caption, label, split, language, picture; repeatable.",
        ),
    ] = None,
    id_prefix: Annotated[
        str | None, typer.Option(help="Cut from the beginning of every id.", show_default=False)
    ] = None,
    weights_sha256: Annotated[
        str | None,
        typer.Option(help="Hash of the model's weights, where it is known.", show_default=False),
    ] = None,
    pooling: Annotated[
        str | None, typer.Option(help="What the embeddings are, e.g. image_embeds.", show_default=False)
    ] = None,
    language: opt.Language = "en",
    policy: Annotated[str, typer.Option(help="How numbers are stored: float16 or float32.")] = "float16",
    shard_rows: Annotated[
        int | None,
        typer.Option(help="Rows of one work unit; chosen by size if not given.", show_default=False),
    ] = None,
    json: opt.Json = False,
) -> None:
    """Make a feature of embeddings that were computed elsewhere; rows are matched by id.

    Makes the store where there is none. In a store that is there, the ids must be those of the store.
    """
    from embedstore.interchange import ImportOptions, import_feature

    options = ImportOptions(
        model=model,
        modality=modality,  # type: ignore[arg-type]  # checked by the options themselves
        ids=ids,
        key=key,
        lengths=lengths,
        columns=_columns(column or []),
        id_prefix=id_prefix,
        weights_sha256=weights_sha256,
        pooling=pooling,
        language=language,
        policy=policy,
        shard_rows=shard_rows,
    )
    with render.bars(quiet=json) as bars:
        summary = import_feature(
            source,
            store,
            name=name,
            options=options,
            on_progress=lambda stage, done, total: bars.update(f"{stage} {name}", done=done, total=total),
        )
    render.print_json(summary.to_dict()) if json else _show(summary)


def _columns(pairs: list[str]) -> dict[str, str]:
    columns = {}
    for pair in pairs:
        ours, equals, theirs = pair.partition("=")
        if not (ours and equals and theirs):
            raise UsageError("bad column mapping", where="--column", found=pair, allowed="OURS=THEIRS")
        columns[ours] = theirs
    return columns


def _show(summary: ImportSummary) -> None:
    for reason, count in summary.left_out.items():
        render.warn(f"left out: {count} {reason}")
    made = "new store" if summary.new_store else "store that was there"
    arrays = ", ".join(name for name in summary.arrays if name != "status")
    render.say(
        f"{summary.feature}: {summary.rows} {summary.table} ({arrays}), {render.size(summary.nbytes)}; {made}"
    )
    if summary.norms is not None:
        low, high = summary.norms
        render.say(f"norms of the rows: {low:.4g} to {high:.4g}")
