"""How much two kernels of the same rows agree: HSIC from whole kernel matrices, and the kernels.

HSIC is estimated in two ways. The *biased* one (Gretton et al. 2005; what papers report) is above 0 for
kernels that have nothing in common, the more so the wider the vectors and the fewer the rows. The *unbiased*
one (Song et al. 2012, equation 5) is 0 on average for such kernels and may be below 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import UsageError

if TYPE_CHECKING:
    from embedstore.shapes import FloatArray

LEAST_ROWS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Hsic:
    """Both estimates times what depends on the number of rows alone, which cancels in CKA.

    biased: `tr(KHLH)`, H the centring matrix; unbiased: `n(n-3)` times Song's HSIC_1.
    """

    biased: float
    unbiased: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cka:
    """biased in [0, 1]; unbiased at most 1, about 0 where nothing is shared."""

    biased: float
    unbiased: float

    @classmethod
    def of(cls, xx: Hsic, yy: Hsic, xy: Hsic) -> Cka:
        """`HSIC(K, L) / sqrt(HSIC(K, K) · HSIC(L, L))`; `UsageError` where a side does not vary."""
        for side, own in (("first", xx), ("second", yy)):
            if min(own.biased, own.unbiased) <= 0:
                raise UsageError(f"the vectors of the {side} side do not vary, so nothing compares with them")
        return cls(
            biased=xy.biased / float(np.sqrt(xx.biased) * np.sqrt(yy.biased)),
            unbiased=xy.unbiased / float(np.sqrt(xx.unbiased) * np.sqrt(yy.unbiased)),
        )


def linear_kernel(x: FloatArray) -> FloatArray:
    """`(n, n)` float64 inner products of the rows of `(n, d)` about their mean, which changes no HSIC."""
    wide = x.astype(np.float64)
    wide -= wide.mean(axis=0)
    return wide @ wide.T


def squared_distances(x: FloatArray) -> FloatArray:
    """`(n, n)` float64 squared Euclidean distances of the rows of `(n, d)`."""
    inner = linear_kernel(x)
    squares = np.diag(inner).copy()
    inner *= -2
    inner += squares[:, None]
    inner += squares
    np.fill_diagonal(inner, 0)
    return np.maximum(inner, 0, out=inner)


def rbf_kernel(x: FloatArray, sigma: float | None = None) -> tuple[FloatArray, float]:
    """`exp(-|a - b|² / 2σ²)` of all rows, `(n, n)` float64, and σ: by default the median distance.

    The median is over the n(n-1)/2 distances of two different rows. `UsageError` where it is 0: more than
    half of the pairs are equal.
    """
    squares = squared_distances(x)
    if sigma is None:
        sigma = float(np.sqrt(np.median(squares[np.triu_indices(len(squares), 1)])))
    if not sigma > 0:
        raise UsageError(
            "most vectors are equal, so that their median distance is 0", todo="name rows that differ"
        )
    return np.exp(squares / (-2 * sigma**2)), sigma


def hsic(k: FloatArray, m: FloatArray) -> Hsic:
    """Both estimates from two kernel matrices `(n, n)` of the same rows, n at least 4."""
    n = len(k)
    if n < LEAST_ROWS:
        raise too_few(n)
    # Both estimates are blind to what centring takes away, and keep their digits without it.
    k, m = _centred(k), _centred(m)
    whole = float(np.einsum("ij,ij->", k, m))
    k_diagonal, m_diagonal = np.diag(k), np.diag(m)
    # Lines of a centred kernel add up to 0, so without the diagonal to its opposite.
    shared = float(k_diagonal @ m_diagonal)
    sums = float(k_diagonal.sum() * m_diagonal.sum()) / ((n - 1) * (n - 2))
    return Hsic(biased=whole, unbiased=whole - n / (n - 2) * shared + sums)


def row_parts(k: FloatArray, m: FloatArray) -> FloatArray:
    """What each row `(n,)` adds to the unbiased HSIC: its line of the two centred kernels, without itself."""
    left, right = _centred(k), _centred(m)
    parts: FloatArray = np.einsum("ij,ij->i", left, right) - np.diag(left) * np.diag(right)
    return parts


def influence(xx: FloatArray, yy: FloatArray, xy: FloatArray, of: tuple[Hsic, Hsic, Hsic]) -> FloatArray:
    """How the unbiased CKA moves with the weight of each row, times the number of rows: mean about 0.

    xx, yy, xy `(m,)`: `row_parts` of the three HSIC of `of`, times n. The standard error of CKA over n rows
    is the standard deviation of this divided by √n (infinitesimal jackknife, Efron 1982, section 6); that of
    a difference of two CKA on the same rows comes from the difference of both. Where nothing is shared it is
    too large rather than too small, by up to √2.
    """
    whole_x, whole_y, whole = (each.unbiased for each in of)
    value = whole / np.sqrt(whole_x) / np.sqrt(whole_y)
    found: FloatArray = 2 * xy / (np.sqrt(whole_x) * np.sqrt(whole_y)) - value * (xx / whole_x + yy / whole_y)
    return found


def too_few(n: int) -> UsageError:
    """The error for fewer rows than an unbiased estimate needs."""
    return UsageError("too few rows to compare encoders", found=n, allowed=f"{LEAST_ROWS} or more")


def _centred(k: FloatArray) -> FloatArray:
    means = k.mean(axis=1)
    centred: FloatArray = k - means[:, None] - means + means.mean()
    return centred
