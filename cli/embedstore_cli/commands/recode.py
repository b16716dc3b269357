"""`embedstore recode`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from embedstore_cli import options as opt
from embedstore_cli import render

if TYPE_CHECKING:
    from embedstore.encode import Progress, RecodeSummary


def recode(
    store: opt.OneStore,
    feature: Annotated[
        str, typer.Argument(metavar="FEATURE", help="Feature that is read.", show_default=False)
    ],
    policy: Annotated[
        str,
        typer.Option(
            help="How its values are stored: int8, fp8, merge-32+int8, pca-64, pq-16, ...; docs/policies.md.",
            show_default=False,
        ),
    ],
    name: Annotated[
        str, typer.Option("--as", metavar="NAME", help="Name of the new feature.", show_default=False)
    ],
    shard_rows: Annotated[
        int | None,
        typer.Option(help="Rows of one work unit; chosen by size if not given.", show_default=False),
    ] = None,
    json: opt.Json = False,
) -> None:
    """Make a new feature from a cached one under another storage policy; no encoder is run.

    Run it again after an interruption: it makes only what is missing.
    """
    from embedstore.encode import recode_feature

    with render.bars(quiet=json) as bars:

        def show(at: Progress) -> None:
            rate = f"{at.fresh / at.seconds:.1f}/s" if at.fresh and at.seconds else ""
            bars.update(f"{at.feature} ({at.table})", done=at.done, total=at.total, note=rate)

        summary = recode_feature(
            store, feature, policy=policy, name=name, shard_rows=shard_rows, on_progress=show
        )
    render.print_json(summary.to_dict()) if json else _show(summary)


def _show(summary: RecodeSummary) -> None:
    header, nbytes = summary.manifest.header, summary.manifest.nbytes
    made = (
        f"{summary.fresh} rows in {render.duration(summary.seconds)}"
        if summary.fresh
        else "nothing was missing"
    )
    smaller = summary.source_nbytes / max(1, nbytes)
    against = f"{smaller:.1f} times less" if smaller >= 1 else f"{1 / smaller:.1f} times more"
    render.say(
        f"{header.name}: {header.rows} {header.table} as {header.policy}, {render.size(nbytes)} "
        f"({against} than {summary.source}); {made}"
    )
