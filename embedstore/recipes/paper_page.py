"""The page of the paper tables: our figures beside the papers', and where the order is another."""

from __future__ import annotations

from itertools import combinations
from statistics import fmean, stdev
from typing import TYPE_CHECKING, TypeAlias

from embedstore.recipes.paper_tables import WAYS, Recipe, Row, Table, rows_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Figures: TypeAlias = "Mapping[str, Mapping[str, Sequence[float]]]"
_PREAMBLE = """\
# The tables of the papers, on Flickr8k-1k

Written by `make paper-tables DATA=FOLDER`. The papers train on millions of pairs; this is 800 pictures with
five captions each, so figures cannot be compared, and the order of merit need not be the same.

Recall@1 in % on split test (200 pictures, 1,000 captions): mean ± standard deviation over {counted}. Chance
is 0.5 from text to image and 2.5 from image to text. Pictures and captions are cached tokens of a ViT-Tiny
(ImageNet-1k) and all-MiniLM-L6-v2; DALIP itself trains both encoders.

Every fit has the same recipe: split train, {recipe.epochs} epochs, batch {recipe.batch_size}, AdamW with a
highest rate of {recipe.lr:g}, loss `clip`, joint width {recipe.width}, one caption a picture and epoch,
everything else at its default. The last checkpoint is measured: nothing is chosen on split test.
Second orders have `reduced={recipe.reduced} channel_dropout={recipe.channel_dropout:g}` (DALIP: 46 and 0.5):
with 0.5 they learn slowly from so little, `kspd` hardly at all (docs/heads.md). There is no data with classes
here, so there are no zero-shot figures.
"""
_LABELS = {"row-7": "`token`, `clip` (row 7)", "lambda-0.4": "mbdc"}


def paper_page(every: Sequence[Table], figures: Figures, recipe: Recipe) -> str:
    """Markdown; `figures`: row to direction to recall@1 of each seed, as shares of 1."""
    seeds = min(len(of_row[WAYS[0]]) for of_row in figures.values())
    counted = f"{seeds} seeds" if seeds > 1 else "one seed"
    parts = [_PREAMBLE.format(counted=counted, recipe=recipe)]
    for table in every:
        parts += _section(table, list(rows_of(table, every)), figures)
    return "\n".join(parts).rstrip() + "\n"


def _section(table: Table, rows: Sequence[Row], figures: Figures) -> list[str]:
    known = [row for row in rows if row.name in figures]
    label = "local / CLS / text token / text global" if known[0].name == "row-1" else "what"
    ours = _ranks([_mean(figures[row.name]) for row in known])
    lines = [f"## {table.title}", "", table.note, ""]
    if table.paper:
        theirs = _ranks([row.paper or 0.0 for row in known])
        lines += [
            f"| {label} | text to image | image to text | mean | order here | order there | {table.paper} |",
            "|---|---|---|---|---|---|---|",
        ]
        extra = [f" {place} | {row.paper:g} |" for place, row in zip(theirs, known, strict=True)]
    else:
        lines += [f"| {label} | text to image | image to text | mean | order here |", "|---|---|---|---|---|"]
        extra = [""] * len(known)
    for row, place, end in zip(known, ours, extra, strict=True):
        of_row = figures[row.name]
        both = [fmean(pair) for pair in zip(*(of_row[way] for way in WAYS), strict=True)]
        cells = [_cell(of_row[way]) for way in WAYS] + [_cell(both)]
        called = _LABELS.get(row.name, row.label) if row.name in table.beside else row.label
        lines.append(f"| {called} | {' | '.join(cells)} | {place} |{end}")
    lines.append("")
    if table.paper:
        lines += [*_verdict(table, known, figures), ""]
    return lines


def _verdict(table: Table, rows: Sequence[Row], figures: Figures) -> list[str]:
    """How many pairs of rows stand in the paper's order, and each that does not."""
    pairs = [
        (better, worse)
        for a, b in combinations(rows, 2)
        for better, worse in ([(a, b)] if (a.paper or 0) > (b.paper or 0) else [(b, a)])
    ]
    wrong = []
    for better, worse in pairs:
        gap = _mean(figures[worse.name]) - _mean(figures[better.name])
        if gap >= 0:
            noise = (_deviation(figures[better.name]) ** 2 + _deviation(figures[worse.name]) ** 2) ** 0.5
            size = "clearly" if gap > 2 * noise else "within the noise" if gap <= noise else "somewhat"
            size = size if noise else "one seed"
            wrong.append(
                f"- {_named(table, worse)} is above {_named(table, better)} here, by {100 * gap:.1f} points"
                f" ({size}); there it is {(better.paper or 0) - (worse.paper or 0):.4g} below."
            )
    kept = len(pairs) - len(wrong)
    head = f"{kept} of {len(pairs)} pairs stand in the paper's order"
    if not wrong:
        return [f"{head}: it is the same."]
    return [f"{head}. It differs here:", "", *wrong]


def _named(table: Table, row: Row) -> str:
    if row.name.startswith("row-"):
        return f"row {row.name[4:]}"
    return _LABELS.get(row.name, row.label) if row.name in table.beside else row.label


def _cell(values: Sequence[float]) -> str:
    spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * fmean(values):.1f}{spread}"


def _both(of_row: Mapping[str, Sequence[float]]) -> list[float]:
    return [fmean(pair) for pair in zip(*(of_row[way] for way in WAYS), strict=True)]


def _mean(of_row: Mapping[str, Sequence[float]]) -> float:
    return fmean(_both(of_row))


def _deviation(of_row: Mapping[str, Sequence[float]]) -> float:
    both = _both(of_row)
    return stdev(both) if len(both) > 1 else 0.0


def _ranks(values: Sequence[float]) -> list[int]:
    """Place of each, 1 for the largest; equal ones share one."""
    return [1 + sum(other > value for other in values) for value in values]
