"""The ranks of a retrieval, both ways: exact, or among the candidates of an approximate index."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from embedstore.bench.figures import RECALL_AT
from embedstore.errors import UsageError
from embedstore.index.approximate import KINDS, Index
from embedstore.index.exact import ranks_both_ways

if TYPE_CHECKING:
    from collections.abc import Callable

    from embedstore.shapes import Float32Array, FloatArray, IntArray

LOOKED_AT = max(RECALL_AT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Rank of each text's image `(m,)` and of each image's best text `(n,)`, from 1.

    index_recalls, of an approximate index only: direction to the share of the exact best 10 that it finds,
    of each of some queries. Then ranks above 10 are not known, and stand as one more than the gallery has.
    """

    text_to_image: IntArray
    image_to_text: IntArray
    index_recalls: dict[str, FloatArray] = field(default_factory=dict)


def ranking(
    images: Float32Array,
    texts: Float32Array,
    image_of: IntArray,
    *,
    index: str = "exact",
    seed: int = 0,
    device: str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
) -> Ranking:
    """Unit vectors `(n, e)` and `(m, e)`, and the image of each text `(m,)`, through an index of some kind.

    Equal scores go to the lower row, also among the candidates of an index. `on_progress(images done,
    images)` of exact ranks. `UsageError` for an unknown index, or too few rows for it.
    """
    if index not in KINDS:
        raise UsageError("unknown index", where="--index", found=index, allowed=", ".join(KINDS))
    if index == "exact":
        to_image, to_text = ranks_both_ways(images, texts, image_of, device=device, on_progress=on_progress)
        return Ranking(text_to_image=to_image, image_to_text=to_text)
    ranks, recalls = {}, {}
    owners = np.arange(len(images))
    for way, queries, gallery, wanted, owner in (
        ("text_to_image", texts, images, image_of, owners),
        ("image_to_text", images, texts, owners, image_of),
    ):
        built = Index(gallery, index, seed=seed, device=device)
        ranks[way] = _first_right(built.search(queries, LOOKED_AT).rows, wanted, owner)
        recalls[way] = built.recalls(queries, LOOKED_AT, seed=seed)
    return Ranking(**ranks, index_recalls=recalls)


def _first_right(rows: IntArray, wanted: IntArray, owner: IntArray) -> IntArray:
    """Rank of the first of `rows (q, k)`, -1 for none, whose owner is the one wanted `(q,)`."""
    right = (rows >= 0) & (owner[rows] == wanted[:, None])
    return np.where(right.any(axis=1), right.argmax(axis=1) + 1, len(owner) + 1)
