"""Hard negatives: pictures to which an altered caption is nearer than the right one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embedstore.recipes.page.content import Block, Card

if TYPE_CHECKING:
    from embedstore.bench.negatives import Contrasted
    from embedstore.documents import BenchReport

WORST = 12


def negatives_blocks(found: Contrasted, report: BenchReport) -> list[Block]:
    """The pairs in which the altered caption is furthest ahead, one a picture."""
    del report
    cards = mistakes(found)
    if not cards:
        return []
    lead = "An altered caption is ahead of the right one by the most; one pair a picture, with both cosines."
    return [Block(kind="cards", title="Worst mistakes", lead=lead, value=cards)]


def mistakes(found: Contrasted) -> tuple[Card, ...]:
    """Pairs whose altered caption scores higher, the largest difference first."""
    ahead = found.negative_scores - found.caption_scores
    order = np.argsort(-ahead, kind="stable")
    order = order[ahead[order] > 0]
    first = np.sort(np.unique(found.images[order], return_index=True)[1])
    chosen = order[first][:WORST]
    words = found.setting.store.texts(["text"])["text"]
    pictures = found.setting.store.thumbnails(found.images[chosen])
    cards = []
    for at, picture in zip(chosen.tolist(), pictures, strict=True):
        own, other = (words[int(rows[at])].as_py() for rows in (found.captions, found.negatives))
        category = found.categories[at]
        cards.append(
            Card(
                picture=picture,
                alt=own,
                lines=(
                    f"right, {found.caption_scores[at]:.2f}: {own}",
                    f"altered, {found.negative_scores[at]:.2f}: {other}",
                    *([] if category is None else [f"({category})"]),
                ),
            )
        )
    return tuple(cards)
