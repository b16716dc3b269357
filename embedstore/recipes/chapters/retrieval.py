"""Retrieval: recall by rank, and queries with what was found for them, drawn by lot and the worst."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embedstore.bench.figures import share_figure
from embedstore.bench.ranking import LOOKED_AT
from embedstore.index.exact import pair_scores, ranks_of_positives, top_k
from embedstore.metrics import recall
from embedstore.metrics.recall import Positives
from embedstore.recipes.page.content import Answer, Block, Query
from embedstore.recipes.page.plots import Curve, line_plot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedstore.bench.retrieval import Retrieved
    from embedstore.documents import BenchReport
    from embedstore.recipes.page.content import Plot
    from embedstore.shapes import IntArray

DRAWN_TEXTS, DRAWN_IMAGES, WORST, PICTURES, CAPTIONS = 6, 4, 4, 5, 4
_RANKS = (1, 2, 3, 5, 8, 10, 16, 32, 50, 64, 100)


def retrieval_blocks(found: Retrieved, report: BenchReport) -> list[Block]:
    """The recall curve and grids of queries, both ways; answers are exact whatever index was measured."""
    pairs, seed = found.pairs, report.seed
    drawn = np.random.default_rng(seed).permutation(len(pairs.images))
    by_lot = pairs.offsets[drawn] + np.random.default_rng(seed + 1).integers(0, pairs.counts[drawn])
    return [
        Block(kind="plots", value=[recall_curve(found, seed=seed)]),
        Block(
            kind="texts_asked",
            title="Words to pictures",
            lead=f"Captions drawn by lot; the nearest of {len(pairs.images):,} pictures, with cosines.",
            value=text_queries(found, by_lot[:DRAWN_TEXTS]),
        ),
        Block(
            kind="images_asked",
            title="Pictures to words",
            lead=f"Pictures drawn by lot; the nearest of {len(pairs.texts):,} captions.",
            value=image_queries(found, drawn[-DRAWN_IMAGES:]),
        ),
        # Of an approximate index the ranks behind the first ones are not known.
        *(() if found.ranks.index_recalls else _mistakes(found)),
    ]


def _mistakes(found: Retrieved) -> list[Block]:
    texts, images = worst_texts(found)[:WORST], worst_images(found)[:WORST]
    blocks = []
    if len(texts):
        blocks.append(
            Block(
                kind="texts_asked",
                title="Worst mistakes: words to pictures",
                lead="The captions whose own picture came last, one a picture; it ends the row.",
                value=text_queries(found, texts),
            )
        )
    if len(images):
        blocks.append(
            Block(
                kind="images_asked",
                title="Worst mistakes: pictures to words",
                lead="The pictures whose best caption came last.",
                value=image_queries(found, images),
            )
        )
    return blocks


def recall_curve(found: Retrieved, *, seed: int) -> Plot:
    """Recall@k of both directions over k, with 95 % intervals, and what random scores give."""
    pairs = found.pairs
    curves = {}
    for name, ranks, counts, n in (
        ("text to image", found.text_to_image, np.ones_like(pairs.texts), len(pairs.images)),
        ("image to text", found.image_to_text, pairs.counts, len(pairs.texts)),
    ):
        at = [k for k in _RANKS if k <= (min(n, LOOKED_AT) if found.ranks.index_recalls else n)]
        figures = [share_figure(recall.hits(ranks, k), seed=seed) for k in at]
        chance = [100 * recall.chance_recall(counts, n, k) for k in at]
        curves[name] = Curve(
            x=at,
            y=[100 * f.value for f in figures],
            low=[100 * f.low for f in figures],
            high=[100 * f.high for f in figures],
        )
        curves[f"{name}, chance"] = Curve(x=at, y=chance, chance=True)
    last = max(max(curve.x) for curve in curves.values())
    ticks = [k for k in (1, 5, 10, 32, 100) if k <= last]
    return line_plot(curves, title="Recall among the first k, with 95 % intervals", x="k", y="%", at=ticks)


def worst_texts(found: Retrieved) -> IntArray:
    """Texts that are not first, at most one an image, the one with the highest rank first."""
    order = np.argsort(-found.text_to_image, kind="stable")
    order = order[found.text_to_image[order] > 1]
    first = np.unique(found.pairs.image_of[order], return_index=True)[1]
    return order[np.sort(first)]


def worst_images(found: Retrieved) -> IntArray:
    """Images whose best caption is not first, the one with the highest rank first."""
    order = np.argsort(-found.image_to_text, kind="stable")
    return order[found.image_to_text[order] > 1]


def text_queries(found: Retrieved, asked: IntArray, *, answers: int = PICTURES) -> tuple[Query, ...]:
    """Texts `(q,)`, places in `pairs.texts`, each with its nearest pictures and its own."""
    pairs = found.pairs
    near = top_k(found.texts[asked], found.images, answers).rows
    own, first = pairs.image_of[asked], pairs.offsets
    ranks = ranks_of_positives(found.texts[asked], found.images, Positives.single(own))
    shown = np.unique(np.append(near, own))
    words = _words(found, np.append(first[shown], asked))
    pictures = dict(zip(shown.tolist(), found.setting.store.thumbnails(pairs.images[shown]), strict=True))
    queries = []
    for text, image, rank, rows in zip(asked, own, ranks.tolist(), near, strict=True):
        places = _places(rows, image, rank)
        scores = pair_scores(found.texts, found.images, *_pairs(text, list(places.values())))
        queries.append(
            Query(
                text=words[int(text)],
                rank=rank,
                answers=tuple(
                    Answer(
                        rank=place,
                        text=words[int(first[row])],
                        right=bool(row == image),
                        score=float(score),
                        jpeg=pictures[row],
                    )
                    for (place, row), score in zip(places.items(), scores, strict=True)
                ),
            )
        )
    return tuple(queries)


def image_queries(found: Retrieved, asked: IntArray, *, answers: int = CAPTIONS) -> tuple[Query, ...]:
    """Images `(q,)`, places in `pairs.images`, each with its nearest captions and the best of its own."""
    pairs = found.pairs
    near = top_k(found.images[asked], found.texts, answers).rows
    pictures = found.setting.store.thumbnails(pairs.images[asked])
    first, image_of = pairs.offsets, pairs.image_of
    own = [np.arange(first[image], first[image + 1]) for image in asked]
    ranks = ranks_of_positives(
        found.images[asked], found.texts, Positives.of(o.tolist() for o in own)
    ).tolist()
    ranked = []
    for image, mine, rank, rows in zip(asked, own, ranks, near, strict=True):
        best = mine[np.argmax(pair_scores(found.images, found.texts, *_pairs(image, mine)))]
        ranked.append(_places(rows, best, rank))
    shown = [text for places in ranked for text in places.values()]
    words = _words(found, np.unique([*shown, *first[asked]]))
    queries = []
    for image, rank, places, picture in zip(asked, ranks, ranked, pictures, strict=True):
        texts = list(places.values())
        scores = pair_scores(found.images, found.texts, *_pairs(image, texts))
        queries.append(
            Query(
                text=words[int(first[image])],
                rank=rank,
                jpeg=picture,
                answers=tuple(
                    Answer(
                        rank=place,
                        text=words[text],
                        right=bool(image_of[text] == image),
                        score=float(score),
                    )
                    for (place, text), score in zip(places.items(), scores, strict=True)
                ),
            )
        )
    return tuple(queries)


def _places(near: IntArray, own: int, rank: int) -> dict[int, int]:
    """Rank to row: the nearest, and the own one where it is not among them."""
    places = dict(enumerate(near.tolist(), start=1))
    return places if rank <= len(near) else places | {rank: int(own)}


def _pairs(query: int, rows: Sequence[int] | IntArray) -> tuple[IntArray, IntArray]:
    """One query with each of some rows."""
    return np.full(len(rows), query), np.asarray(rows)


def _words(found: Retrieved, places: IntArray) -> dict[int, str]:
    """The words of texts, by their places in `pairs.texts`."""
    rows = found.setting.store.texts(["text"])["text"].take(found.pairs.texts[places])
    return dict(zip(places.tolist(), rows.to_pylist(), strict=True))
