"""`embedstore curate dedup`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from embedstore_cli import options as opt
from embedstore_cli import render
from embedstore_cli.commands.curate import common

if TYPE_CHECKING:
    from embedstore.store import Subset

OWN_COUNTS = {"considered", "duplicates", "sampled_pairs"}


def dedup(
    store: opt.StorePath,
    name: common.SubsetName,
    feature: common.PooledFeature = None,
    table: Annotated[
        str | None,
        typer.Option(
            metavar="TABLE",
            help="images (the default) or texts, where no feature says it.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="exhaustive: all pairs. semdedup: pairs in near clusters. exact: equal content. "
            "auto: exhaustive up to 50,000 rows, else semdedup."
        ),
    ] = "auto",
    eps: Annotated[
        float, typer.Option(help="Rows whose cosine exceeds 1 - eps are duplicates.", show_default=True)
    ] = 0.05,
    prefer: Annotated[
        str,
        typer.Option(help="Which row is kept: first, size (of the file; of texts their length) or score."),
    ] = "first",
    scores: Annotated[
        str | None,
        typer.Option(
            metavar="SUBSET",
            help="Scores for --prefer score; without it those of the subset --rows.",
            show_default=False,
        ),
    ] = None,
    rows: common.Rows = None,
    split: common.OneSplit = None,
    clusters: Annotated[
        int | None,
        typer.Option(metavar="N", help="Clusters of semdedup; without it √rows.", show_default=False),
    ] = None,
    probes: Annotated[
        int, typer.Option(help="Nearest clusters with whose rows semdedup compares a row.")
    ] = 4,
    seed: opt.Seed = 0,
    memory_mb: common.MemoryMB = 4096,
    device: opt.Device = "auto",
    overwrite: common.Overwrite = False,
    json: opt.Json = False,
) -> None:
    """Keep one of rows that are duplicates, exactly or nearly; the others are told of with their twins."""
    from embedstore.curate import dedup_store
    from embedstore.encoders.device import pick_device

    render.warn_of_idle_gpu(device)
    with common.progress(quiet=json) as report:
        subset = dedup_store(
            store,
            name,
            feature=feature,
            table=table,
            method=method,
            eps=eps,
            prefer=prefer,
            scores=scores,
            rows=rows,
            split=split,
            clusters=clusters,
            probes=probes,
            seed=seed,
            device=str(pick_device(device)),
            memory_mb=memory_mb,
            overwrite=overwrite,
            on_progress=report,
        )
    if not json:
        for reason, count in subset.card.counts.items():
            if reason not in OWN_COUNTS:
                render.warn(f"{count} rows left out: {reason}")
    common.finish(subset, _lines(subset, eps), json=json)


def _lines(subset: Subset, eps: float) -> list[str]:
    from embedstore.curate.semdedup import SAMPLE_ROWS

    counts, said = subset.card.counts, subset.card.settings
    how = f"equal {said['compared']}" if said["method"] == "exact" else f"cosine above {1 - eps:g}"
    compared = f"{counts['considered']} rows compared, {counts['duplicates']} duplicates: {how}"
    lines = [compared, f"method {said['method']}, kept by {said['prefer']}"]
    if "pair_recall" in said:
        lines[1] += f", {said['probes']} of {said['clusters']} clusters looked at for each row"
        recall, pairs = said["pair_recall"], counts["sampled_pairs"]
        sampled = min(SAMPLE_ROWS, len(subset) + counts["duplicates"])
        lines.append(
            f"recall {recall:.4f} of the {pairs} duplicate pairs of {sampled} sampled rows"
            if isinstance(recall, float)
            else f"no duplicate among {sampled} sampled rows, so no recall is known"
        )
    return lines
