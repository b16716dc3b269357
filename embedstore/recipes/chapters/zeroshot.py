"""Zero-shot classes: what is taken for what, the recall of each class, and the worst mistakes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embedstore.recipes.chapters.classes import Taken, class_blocks
from embedstore.recipes.page.content import Block, Card

if TYPE_CHECKING:
    from embedstore.bench.zeroshot import Classified
    from embedstore.documents import BenchReport

WORST = 12


def zeroshot_blocks(found: Classified, report: BenchReport) -> list[Block]:
    """The confusion matrix, a bar for each class, and pictures whose own class came last."""
    taken = Taken.of_rows(found.labels, found.predicted, len(found.classes))
    blocks = class_blocks(report.per_class, [c.label for c in found.classes], taken, metric="Recall")
    worst = mistakes(found)
    if worst:
        lead = "Pictures whose own class came last among the classes."
        blocks.append(Block(kind="cards", title="Worst mistakes", lead=lead, value=worst))
    return blocks


def mistakes(found: Classified) -> tuple[Card, ...]:
    """Pictures whose own class is not first: by its rank, then by how much the wrong one was ahead."""
    order = np.lexsort((found.own_scores - found.scores, -found.ranks))
    order = order[found.ranks[order] > 1][:WORST]
    pictures = found.setting.store.thumbnails(found.rows[order])
    labels = [c.label for c in found.classes]
    return tuple(
        Card(
            picture=picture,
            alt=f"a picture of class {labels[found.labels[at]]}",
            lines=(
                f"is {labels[found.labels[at]]}: {found.own_scores[at]:.2f}, rank {found.ranks[at]}",
                f"called {labels[found.predicted[at]]}: {found.scores[at]:.2f}",
            ),
        )
        for at, picture in zip(order, pictures, strict=True)
    )
