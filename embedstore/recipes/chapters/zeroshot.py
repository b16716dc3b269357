"""Zero-shot classes: what is taken for what, the recall of each class, and the worst mistakes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embedstore.recipes.page.content import Block, Card, ClassRow
from embedstore.recipes.page.plots import confusion_plot

if TYPE_CHECKING:
    from embedstore.bench.zeroshot import Classified
    from embedstore.documents import BenchReport
    from embedstore.recipes.page.content import Plot
    from embedstore.shapes import IntArray

WORST, MOST_CLASSES, MOST_IN_MATRIX = 12, 60, 40


def zeroshot_blocks(found: Classified, report: BenchReport) -> list[Block]:
    """The confusion matrix, a bar for each class, and pictures whose own class came last."""
    table = found.confusion
    rows = class_rows(found, report, table)
    some = rows if len(rows) <= MOST_CLASSES else rows[: MOST_CLASSES // 2] + rows[-MOST_CLASSES // 2 :]
    some_of = "" if len(some) == len(rows) else f" The best and the worst of {len(rows)} classes."
    blocks = [
        Block(
            kind="classes",
            title="Recall of each class",
            lead="The bar is the recall, the line on it its 95 % interval." + some_of,
            value=some,
        )
    ]
    plot = confusion_matrix(found, table)
    if plot is not None:
        blocks.insert(0, Block(kind="plots", title="What is taken for what", value=[plot]))
    worst = mistakes(found)
    if worst:
        blocks.append(
            Block(
                kind="cards",
                title="Worst mistakes",
                lead="Pictures whose own class came last among the classes.",
                value=worst,
            )
        )
    return blocks


def confusion_matrix(found: Classified, table: IntArray) -> Plot | None:
    """Shares of `table (c, c)`; of many classes those with the most mistakes, none where there are no two."""
    shown = np.flatnonzero(table.sum(axis=0) + table.sum(axis=1))
    title = "Share of each class in % (down: what it is, across: what it is called)"
    if len(shown) > MOST_IN_MATRIX:
        wrong = table.sum(axis=0) + table.sum(axis=1) - 2 * np.diag(table)
        shown = np.sort(np.argsort(-wrong, kind="stable")[:MOST_IN_MATRIX])
        title += f": the {MOST_IN_MATRIX} of {len(table)} classes with the most mistakes"
    if len(shown) < 2:
        return None
    part, sizes = table[np.ix_(shown, shown)], table[shown].sum(axis=1)
    return confusion_plot(part, [found.classes[c].label for c in shown], sizes=sizes, title=title)


def class_rows(found: Classified, report: BenchReport, table: IntArray) -> tuple[ClassRow, ...]:
    """Every class with images, the best first, and the class it is most often taken for."""
    wrong = table - np.diag(np.diag(table))
    sizes = table.sum(axis=1)
    rows = [
        ClassRow(
            name=name.label,
            figure=report.per_class[name.label],
            rows=int(sizes[c]),
            taken_for=found.classes[int(wrong[c].argmax())].label if wrong[c].any() else None,
            times=int(wrong[c].max()),
        )
        for c, name in enumerate(found.classes)
        if sizes[c]
    ]
    return tuple(sorted(rows, key=lambda row: -row.figure.value))


def mistakes(found: Classified) -> tuple[Card, ...]:
    """Pictures whose own class is not first, the one with the highest rank first."""
    order = np.argsort(-found.ranks, kind="stable")
    order = order[found.ranks[order] > 1][:WORST]
    pictures = found.setting.store.thumbnails(found.rows[order])
    return tuple(
        Card(
            picture=picture,
            alt=f"a picture of class {found.classes[found.labels[at]].label}",
            lines=(
                f"is {found.classes[found.labels[at]].label}, rank {found.ranks[at]} of {len(found.classes)}",
                f"called {found.classes[found.predicted[at]].label}",
            ),
        )
        for at, picture in zip(order, pictures, strict=True)
    )
