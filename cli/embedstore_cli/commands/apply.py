"""`embedstore apply`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore_cli import options as opt
from embedstore_cli import render

if TYPE_CHECKING:
    from embedstore.encode import AppliedFeature, Progress


def apply(
    head: opt.Head,
    store: opt.StorePath,
    name: Annotated[
        str,
        typer.Option(
            "--as",
            metavar="NAME",
            help="Feature of the images' embeddings; the texts' is NAME-texts. Or both names: A,B.",
            show_default=False,
        ),
    ],
    table: Annotated[str, typer.Option(help="images, texts or both; one alone takes NAME itself.")] = "both",
    image: opt.ImageFeature = None,
    text: opt.TextFeature = None,
    policy: Annotated[str, typer.Option(help="How they are stored: float16 or float32.")] = "float16",
    shard_rows: Annotated[
        int | None,
        typer.Option(help="Rows of one work unit; chosen by size if not given.", show_default=False),
    ] = None,
    device: opt.Device = "auto",
    json: opt.Json = False,
) -> None:
    """Store a head's joint embeddings as features, for bench, search and other tools; no encoder is run.

    Run it again after an interruption: it makes only what is missing.
    """
    from embedstore.encode import apply_head

    render.warn_of_idle_gpu(device)
    with render.bars(quiet=json) as bars:

        def show(at: Progress) -> None:
            rate = f"{at.fresh / at.seconds:.1f}/s" if at.fresh and at.seconds else ""
            bars.update(f"{at.feature} ({at.table})", done=at.done, total=at.total, note=rate)

        made = apply_head(
            head,
            store,
            name=name,
            table=table,
            image=image,
            text=text,
            policy=policy,
            shard_rows=shard_rows,
            device=device,
            on_progress=show,
        )
    if json:
        render.print_json({"features": [feature.to_dict() for feature in made]})
        return
    for feature in made:
        _show(feature, several=len({each.store for each in made}) > 1)


def _show(feature: AppliedFeature, *, several: bool) -> None:
    header = feature.manifest.header
    made = (
        f"{feature.fresh} rows in {render.duration(feature.seconds)}"
        if feature.fresh
        else "nothing was missing"
    )
    where = f"{Path(feature.store).name}: " if several else ""
    render.say(
        f"{where}{header.name}: {header.rows} {header.table} of {feature.source}, {header.card.width} wide, "
        f"{header.policy}, {render.size(feature.manifest.nbytes)}; {made}"
    )
    if feature.manifest.quarantined:
        render.warn(f"{feature.manifest.quarantined} rows of {header.name} are quarantined")
