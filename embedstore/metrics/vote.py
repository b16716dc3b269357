"""Classes by the votes of nearest neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import UsageError

if TYPE_CHECKING:
    from embedstore.shapes import FloatArray, IntArray

TEMPERATURE = 0.07
_VOTES_AT_ONCE = 1 << 22


def weighted_vote(
    cosines: FloatArray, labels: IntArray, classes: int, *, temperature: float = TEMPERATURE
) -> IntArray:
    """The class of each query `(q,)` int64 by its k neighbours: each votes for its own with `exp(cos / τ)`.

    cosines `(q, k)`; labels `(q, k)` of the neighbours in [0, classes). Of equal sums the lower class wins.
    DINO's protocol (Caron et al. 2021) has τ = 0.07 and k = 10 or 20. `UsageError` where nobody votes.
    """
    if cosines.shape != labels.shape or not cosines.shape[1]:
        raise UsageError("every neighbour needs a cosine and a label", found=(cosines.shape, labels.shape))
    found = np.empty(len(cosines), dtype=np.int64)
    step = max(1, _VOTES_AT_ONCE // classes)
    for at in range(0, len(cosines), step):
        part, own = cosines[at : at + step].astype(np.float64), labels[at : at + step]
        # Only ratios of votes count, so the nearest neighbour's may be 1.
        votes = np.exp((part - part.max(axis=1, keepdims=True)) / temperature)
        places = np.arange(len(part))[:, None] * classes + own
        sums = np.bincount(places.ravel(), votes.ravel(), minlength=len(part) * classes)
        found[at : at + step] = sums.reshape(-1, classes).argmax(axis=1)
    return found
