"""What people look at: queries drawn by lot with what was retrieved, and the recall of each class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embedstore.index.exact import top_k
from embedstore.recipes.page.content import Answer, ClassRow, Query

if TYPE_CHECKING:
    from embedstore.bench.retrieval import Retrieved
    from embedstore.bench.zeroshot import Classified
    from embedstore.documents import BenchReport
    from embedstore.shapes import IntArray


def text_queries(found: Retrieved, *, count: int, answers: int, seed: int) -> tuple[Query, ...]:
    """`count` captions of different images, drawn by lot, each with its nearest pictures."""
    pairs, random = found.pairs, np.random.default_rng(seed)
    images = _draw(len(pairs.images), count, random)
    asked = pairs.offsets[images] + random.integers(0, pairs.counts[images])
    near = top_k(found.texts[asked], found.images, answers)
    words = found.setting.store.texts(["text"])["text"]
    shown = np.unique(near.rows)
    pictures = dict(zip(shown, found.setting.store.thumbnails(pairs.images[shown]), strict=True))
    return tuple(
        Query(
            text=words[int(pairs.texts[text])].as_py(),
            rank=int(found.text_to_image[text]),
            answers=tuple(
                Answer(
                    text=words[int(pairs.texts[pairs.offsets[row]])].as_py(),
                    right=bool(row == image),
                    score=float(score),
                    jpeg=pictures[row],
                )
                for row, score in zip(near.rows[i], near.scores[i], strict=True)
            ),
        )
        for i, (text, image) in enumerate(zip(asked, images, strict=True))
    )


def image_queries(found: Retrieved, *, count: int, answers: int, seed: int) -> tuple[Query, ...]:
    """`count` images drawn by lot, each with its nearest captions."""
    pairs = found.pairs
    images = _draw(len(pairs.images), count, np.random.default_rng(seed))
    near = top_k(found.images[images], found.texts, answers)
    words = found.setting.store.texts(["text"])["text"]
    pictures = found.setting.store.thumbnails(pairs.images[images])
    return tuple(
        Query(
            text=words[int(pairs.texts[pairs.offsets[image]])].as_py(),
            rank=int(found.image_to_text[image]),
            jpeg=pictures[i],
            answers=tuple(
                Answer(
                    text=words[int(pairs.texts[row])].as_py(),
                    right=bool(pairs.image_of[row] == image),
                    score=float(score),
                )
                for row, score in zip(near.rows[i], near.scores[i], strict=True)
            ),
        )
        for i, image in enumerate(images)
    )


def class_rows(found: Classified, report: BenchReport) -> tuple[ClassRow, ...]:
    """Every class with images, the best first, and the class it is most often taken for."""
    table = found.confusion
    sizes = table.sum(axis=1)
    np.fill_diagonal(table, 0)
    rows = [
        ClassRow(
            name=name.label,
            figure=report.per_class[name.label],
            rows=int(sizes[c]),
            taken_for=found.classes[int(table[c].argmax())].label if table[c].any() else None,
            times=int(table[c].max()),
        )
        for c, name in enumerate(found.classes)
        if sizes[c]
    ]
    return tuple(sorted(rows, key=lambda row: -row.figure.value))


def _draw(n: int, count: int, random: np.random.Generator) -> IntArray:
    """Up to `count` of n, without repeats, in drawn order."""
    return random.permutation(n)[:count]
