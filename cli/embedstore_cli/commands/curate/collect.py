"""`embedstore curate collect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from embedstore_cli import options as opt
from embedstore_cli import render
from embedstore_cli.commands.curate import common

if TYPE_CHECKING:
    from embedstore.curate import Collected

_SHOWN = 5


def collect(
    store: opt.StorePath,
    prototypes: Annotated[
        str,
        typer.Option(
            metavar="NAME|FOLDER",
            help="Prototypes of this store, or OTHER.store/prototypes/NAME.",
            show_default=False,
        ),
    ],
    name: common.SubsetName,
    table: Annotated[
        str | None,
        typer.Option(help="texts or images; texts where the store has any.", show_default=False),
    ] = None,
    feature: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Feature whose embeddings are the pool.", show_default=False),
    ] = None,
    head: opt.AnyHeadDir = None,
    keep: Annotated[int, typer.Option(help="Best rows that each concept keeps.")] = 25_000,
    per_concept: Annotated[int, typer.Option(help="Most rows that a concept takes of these.")] = 2_000,
    order: Annotated[str, typer.Option(help="rare-first, common-first or random.")] = "rare-first",
    floor: Annotated[
        float | None, typer.Option(help="Take no row with a lower cosine.", show_default=False)
    ] = None,
    cap: Annotated[
        int | None, typer.Option(help="Most rows of one --cap-by value.", show_default=False)
    ] = None,
    cap_by: Annotated[
        str | None,
        typer.Option(help="domain, label, split, store, language or role.", show_default=False),
    ] = None,
    once: Annotated[
        str, typer.Option(help="image: an image by one of its captions; row: each caption by itself.")
    ] = "image",
    split: Annotated[str, typer.Option(help="Split of the pool; 'all' takes every row.")] = "all",
    rows: common.Rows = None,
    language: Annotated[
        str | None, typer.Option(help="Only texts in this language.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides the order with --order random.")] = 0,
    block: Annotated[int, typer.Option(help="Rows that are read at once.")] = 1024,
    threads: Annotated[
        int | None, typer.Option(help="Threads; all that torch has if not given.", show_default=False)
    ] = None,
    device: opt.Device = "cpu",
    engine: Annotated[str, typer.Option(help="local or ray: pool shards in parallel.")] = "local",
    ray_address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Ray cluster.", show_default=False)
    ] = None,
    ray_workers: Annotated[
        int | None, typer.Option(help="Tasks on Ray; one a core if not given.", show_default=False)
    ] = None,
    overwrite: common.Overwrite = False,
    json: opt.Json = False,
) -> None:
    """Collect a concept-balanced subset: the rows nearest to each prototype, rarest concept first."""
    from embedstore.curate import collect_rows

    render.warn_of_idle_gpu(device)
    with render.bars(quiet=json) as bars:
        found = collect_rows(
            store,
            prototypes,
            name,
            table=table,
            feature=feature,
            head=head,
            keep=keep,
            per_concept=per_concept,
            order=order,  # type: ignore[arg-type]  # checked there
            floor=floor,
            cap=cap,
            cap_by=cap_by,
            once=once,
            rows=rows,
            split=None if split == "all" else split,
            language=language,
            seed=seed,
            block=block,
            threads=threads,
            device=device,
            engine=engine,
            ray_address=ray_address,
            ray_workers=ray_workers,
            overwrite=overwrite,
            on_progress=lambda done, total: bars.update("scoring", done=done, total=total),
        )
    render.print_json(found.to_dict()) if json else _show(found)
    if found.warning:
        render.warn(found.warning)


def _show(found: Collected) -> None:
    subset, most = found.subset, found.per_concept
    render.say(
        f"{subset.name}: {len(subset)} {subset.table} of {found.considered} for {len(found.concepts)} "
        f"concepts, at most {most} each"
    )
    ends = list(range(len(found.concepts)))
    if len(ends) > 2 * _SHOWN:
        ends = ends[:_SHOWN] + ends[-_SHOWN:]
        render.say(f"the {_SHOWN} rarest and the {_SHOWN} most common:")
    lines = [(found.concepts[k], f"{found.commonality[k]:.4f}", found.taken[k]) for k in ends]
    render.table("", ("concept", "commonality", "taken"), lines)
    for reason, count in found.left_out.items():
        render.warn(f"{count} rows {reason}")
    if found.short:
        shown = ", ".join(found.short[:_SHOWN]) + (", ..." if len(found.short) > _SHOWN else "")
        render.say(f"{len(found.short)} concepts got fewer than {most}: {shown}")
