"""One pass over the rows of a store: what linear CKA of every pair needs, and the vectors of a sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from embedstore.errors import UsageError
from embedstore.metrics.cka import Moments, spread
from embedstore.store.pair_rows import image_vectors, text_vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embedstore.documents import VectorKind
    from embedstore.shapes import Float32Array, FloatArray, IntArray
    from embedstore.store import Feature
    from embedstore.store.pair_rows import Captioned

Pair: TypeAlias = tuple[str, str]
BLOCK = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSums:
    """Sums of every feature with itself and of every pair over `rows`; vectors `(m, d)` of the sample."""

    pairs: tuple[Pair, ...]
    sums: dict[Pair, Moments]
    sampled: dict[str, Float32Array]
    rows: int

    def of(self, pair: Pair) -> tuple[Moments, Moments, Moments]:
        """Image with itself, text with itself, image with text."""
        x, y = pair
        return self.sums[x, x], self.sums[y, y], self.sums[pair]


def read_sums(
    images: Sequence[Feature],
    texts: Sequence[Feature],
    rows: Captioned,
    *,
    kinds: dict[str, VectorKind],
    places: IntArray,
    progress: Callable[[int, int], None] | None = None,
) -> PairSums:
    """Read every row once. places `(m,)`: the rows of the sample, rising.

    Memory: a matrix of both widths for every pair, the sample, and one block. `UsageError` for a feature
    whose vectors are all equal or not finite.
    """
    features = {f.name: f for f in (*images, *texts)}
    pairs = tuple((x.name, y.name) for x in images for y in texts)
    wanted = [*((name, name) for name in features), *pairs]
    sums: dict[Pair, Moments] = {}
    kept: dict[str, list[Float32Array]] = {name: [] for name in features}
    for at in range(0, len(rows), BLOCK):
        stop = min(len(rows), at + BLOCK)
        block = {name: _vectors(f, rows, at, stop, kinds[name]) for name, f in features.items()}
        for pair in wanted:
            more = Moments.of(block[pair[0]], block[pair[1]])
            sums[pair] = sums[pair] + more if at else more
        low, high = np.searchsorted(places, (at, stop))
        for name, vectors in block.items():
            kept[name].append(vectors[places[low:high] - at].astype(np.float32))
        if progress is not None:
            progress(stop, len(rows))
    for name in features:
        if not spread(sums[name, name]).unbiased > 0:
            raise UsageError(
                "all vectors are equal, so nothing compares with them", where=name, found=kinds[name]
            )
    sampled = {name: np.concatenate(parts) for name, parts in kept.items()}
    return PairSums(pairs=pairs, sums=sums, sampled=sampled, rows=len(rows))


def _vectors(feature: Feature, rows: Captioned, start: int, stop: int, kind: VectorKind) -> FloatArray:
    if feature.table == "images":
        found = image_vectors(feature, rows.images[start:stop], kind)
    else:
        offsets = rows.offsets[start : stop + 1]
        texts = rows.texts[offsets[0] : offsets[-1]]
        found = text_vectors(feature, texts, offsets - offsets[0], kind)
    if not np.isfinite(found).all():
        raise UsageError("vectors are not finite", where=feature.name, found=kind)
    return found
