"""`embedstore curate leaks`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore_cli import options as opt
from embedstore_cli import render
from embedstore_cli.commands.curate import common

if TYPE_CHECKING:
    from embedstore.curate.leaks import Leaks

SHOWN = 10
OWN_COUNTS = {"considered", "in a test set", "leaks"}


def leaks(
    store: opt.StorePath,
    name: common.SubsetName,
    others: Annotated[
        list[str] | None,
        typer.Argument(metavar="[OTHER]...", help="Stores with test sets.", show_default=False),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPLIT|SUBSET", help="A test set of the same store; may be repeated.", show_default=False
        ),
    ] = None,
    feature: common.PooledFeature = None,
    cosine: Annotated[float, typer.Option(help="A row leaks when its nearest has a higher cosine.")] = 0.95,
    rows: common.Rows = None,
    split: common.OneSplit = None,
    their_split: Annotated[
        str | None,
        typer.Option(metavar="SPLIT", help="Only this split of the other stores.", show_default=False),
    ] = None,
    their_rows: Annotated[
        str | None,
        typer.Option(metavar="SUBSET|FILE", help="Only these rows of the other stores.", show_default=False),
    ] = None,
    neighbours: Annotated[int, typer.Option(help="Pairs that are listed of each leak and set, at most.")] = 8,
    index: Annotated[
        str, typer.Option(help="exact, or approximate: ivf, hnsw, pq; its recall is measured and told.")
    ] = "exact",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write the pairs here: .parquet or .csv.", show_default=False),
    ] = None,
    seed: opt.Seed = 0,
    memory_mb: common.MemoryMB = 4096,
    device: opt.Device = "auto",
    overwrite: common.Overwrite = False,
    json: opt.Json = False,
) -> None:
    """Find rows that are nearly in a test set, list the pairs, and keep the rows without them."""
    from embedstore.curate import find_leaks
    from embedstore.curate.pair_files import check_pair_file, write_pairs
    from embedstore.encoders.device import pick_device

    if out is not None:
        check_pair_file(out)
    render.warn_of_idle_gpu(device)
    with common.progress(quiet=json) as report:
        found = find_leaks(
            store,
            name,
            others or [],
            against=against or [],
            feature=feature,
            cosine=cosine,
            rows=rows,
            split=split,
            their_split=their_split,
            their_rows=their_rows,
            neighbours=neighbours,
            index=index,
            seed=seed,
            device=str(pick_device(device)),
            memory_mb=memory_mb,
            overwrite=overwrite,
            on_progress=report,
        )
    if out is not None:
        write_pairs(found.pairs, out)
    if not json:
        own = {*OWN_COUNTS, *(f"leaks from {each.name}" for each in found.sets)}
        for reason, count in found.subset.card.counts.items():
            if reason not in own:
                render.warn(f"{count} rows left out: {reason}")
    common.finish(found.subset, _lines(found, cosine, index), json=json)
    if not json and len(found.pairs):
        lines = [
            (f"{line['cosine']:.4f}", line["id"], line["other_id"], line["set"])
            for line in found.pairs.slice(0, SHOWN).to_pylist()
        ]
        render.table("", ("cosine", "id", "is nearly", "of"), lines, words=("id", "is nearly", "of"))
        if len(found.pairs) > SHOWN:
            render.say(
                f"and {len(found.pairs) - SHOWN} more pairs" + ("" if out else ": --out FILE writes them")
            )


def _lines(found: Leaks, cosine: float, index: str) -> list[str]:
    from embedstore.index.approximate import SAMPLE_QUERIES

    counts = found.subset.card.counts
    lines = [f"{counts['considered']} rows compared, {counts['leaks']} with a cosine above {cosine:g}"]
    for each in found.sets:
        lines.append(f"{each.name}: {each.leaks} leaks, near to {each.hit} of its {each.rows} rows")
        if each.recall is not None:
            sampled = min(SAMPLE_QUERIES, counts["considered"])
            lines.append(f"{index} index: recall {each.recall:.4f} of the nearest of {sampled} sampled rows")
    if counts["in a test set"]:
        lines.append(f"{counts['in a test set']} rows are in a test set themselves and not compared")
    return lines
