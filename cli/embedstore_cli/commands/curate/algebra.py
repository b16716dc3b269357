"""`embedstore curate union`, `intersect`, `subtract`, `sample` and `ids`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedstore_cli import options as opt
from embedstore_cli.commands.curate import common

if TYPE_CHECKING:
    from embedstore.curate.algebra import Operation

Operands = Annotated[
    list[str],
    typer.Argument(
        metavar="A B ...",
        help="Subsets, files of ids or, in A+B, stores by their folder's name; all of one table.",
        show_default=False,
    ),
]


def _combine(
    operation: Operation, store: str, of: list[str], name: str, rows: str | None, overwrite: bool, json: bool
) -> None:
    from embedstore.curate.algebra import combine_subsets

    found = combine_subsets(store, operation, of, name=name, rows=rows, overwrite=overwrite)
    counts = [found.card.counts[f"in_{k + 1}"] for k in range(len(of))]
    sizes = ", ".join(f"{each} {count}" for each, count in zip(of, counts, strict=True))
    common.finish(found, [f"{operation} of {sizes}"], json=json)


def union(
    store: opt.StorePath,
    of: Operands,
    name: common.SubsetName,
    rows: common.Rows = None,
    overwrite: common.Overwrite = False,
    json: opt.Json = False,
) -> None:
    """The rows of any of the subsets; each with the reasons of the first that knows them."""
    _combine("union", store, of, name, rows, overwrite, json)


def intersect(
    store: opt.StorePath,
    of: Operands,
    name: common.SubsetName,
    rows: common.Rows = None,
    overwrite: common.Overwrite = False,
    json: opt.Json = False,
) -> None:
    """The rows that are in all of the subsets."""
    _combine("intersect", store, of, name, rows, overwrite, json)


def subtract(
    store: opt.StorePath,
    of: Operands,
    name: common.SubsetName,
    rows: common.Rows = None,
    overwrite: common.Overwrite = False,
    json: opt.Json = False,
) -> None:
    """The rows of the first subset that are in none of the others; what goes is told of."""
    _combine("subtract", store, of, name, rows, overwrite, json)


def sample(
    store: opt.StorePath,
    of: Annotated[
        str,
        typer.Argument(metavar="A", help="A subset, a file of ids or a store of A+B.", show_default=False),
    ],
    name: common.SubsetName,
    count: Annotated[int | None, typer.Option(help="How many rows.", show_default=False)] = None,
    share: Annotated[
        float | None, typer.Option(help="Or which share of them, 0 to 1, rounded up.", show_default=False)
    ] = None,
    seed: opt.Seed = 0,
    rows: common.Rows = None,
    overwrite: common.Overwrite = False,
    json: opt.Json = False,
) -> None:
    """Rows drawn at random; of one seed a smaller sample lies in a larger one."""
    from embedstore.curate.algebra import sample_rows

    found = sample_rows(
        store, of, name=name, count=count, share=share, seed=seed, rows=rows, overwrite=overwrite
    )
    lines = [f"drawn from {found.card.counts['considered']} of {of}, seed {seed}"]
    common.finish(found, lines, json=json)


def ids(
    store: opt.StorePath,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="One id a line; .csv and .parquet: the column id, with score, concept ... if there.",
            show_default=False,
        ),
    ],
    name: common.SubsetName,
    rows: common.Rows = None,
    overwrite: common.Overwrite = False,
    json: opt.Json = False,
) -> None:
    """A subset from a list of ids that another tool made."""
    from embedstore.curate.ids import subset_of_ids

    found = subset_of_ids(store, file, name=name, rows=rows, overwrite=overwrite)
    common.finish(found, [f"{found.card.counts['ids']} ids in {file.name}"], json=json)
