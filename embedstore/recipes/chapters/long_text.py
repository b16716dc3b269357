"""Long texts: those whose picture is found as more of the text is read, and those whose picture is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embedstore.recipes.page.content import Block, Card

if TYPE_CHECKING:
    from embedstore.bench.long_text import Lengthened
    from embedstore.documents import BenchReport
    from embedstore.shapes import IntArray

SHOWN, LETTERS = 4, 240


def long_text_blocks(found: Lengthened, report: BenchReport) -> list[Block]:
    """Texts with the largest change of rank between the shortest and the longest limit, both ways."""
    del report
    ranks = np.stack([ranking.text_to_image for ranking in found.ranks])
    gained = ranks[0] - ranks[-1]
    blocks = []
    for title, change in (("Won by reading more", gained), ("Lost by reading more", -gained)):
        order = np.argsort(-change, kind="stable")
        order = order[change[order] > 0][:SHOWN]
        if len(order):
            lead = "The rank of the text's picture at each limit of tokens."
            blocks.append(Block(kind="cards", title=title, lead=lead, value=_cards(found, ranks, order)))
    return blocks


def _cards(found: Lengthened, ranks: IntArray, chosen: IntArray) -> tuple[Card, ...]:
    store, pairs = found.setting.store, found.pairs
    words = store.texts(["text"])["text"].take(pairs.texts[chosen]).to_pylist()
    pictures = store.thumbnails(pairs.images[pairs.image_of[chosen]])
    cards = []
    for at, text, picture in zip(chosen, words, pictures, strict=True):
        each = zip(found.limits, ranks[:, at], strict=True)
        lines = (", ".join(f"{limit}: rank {rank:,}" for limit, rank in each), _cut(text))
        cards.append(Card(picture=picture, alt=_cut(text), lines=lines))
    return tuple(cards)


def _cut(text: str) -> str:
    return text if len(text) <= LETTERS else text[: LETTERS - 1] + "…"
