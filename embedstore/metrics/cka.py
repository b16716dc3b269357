"""Linear centered kernel alignment (Kornblith et al. 2019) of two encoders, streamed over any number of rows.

With a linear kernel both estimates of HSIC (see `metrics.hsic`) follow from sums over rows: about the means,
`tr(KHLH) = |C|²` with C = Σ x yᵀ, and Song's unbiased estimate is, times n(n-3),
`|C|² - n/(n-2) Σ|x|²|y|² + Σ|x|² Σ|y|² / ((n-1)(n-2))`. So memory is O(D²), and blocks add up exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import UsageError
from embedstore.metrics.hsic import (
    LEAST_ROWS,
    Cka,
    Hsic,
    hsic,
    influence,
    linear_kernel,
    rbf_kernel,
    too_few,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedstore.shapes import FloatArray

BLOCK = 4096
# Spread that is this small beside the mean, both squared, is what rounding leaves of none.
_ROUNDING = 1e-20


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Sums over rows of two sets of vectors, each about its own mean; `a + b` are those of both streams.

    mean_x `(d1,)`, mean_y `(d2,)`; cross `(d1, d2)`: Σ x yᵀ; square_x, square_y: Σ|x|², Σ|y|²; third_x
    `(d1,)`: Σ |y|² x; third_y `(d2,)`: Σ |x|² y; fourth: Σ |x|²|y|². All float64.
    """

    rows: int
    mean_x: FloatArray
    mean_y: FloatArray
    cross: FloatArray
    square_x: float
    square_y: float
    third_x: FloatArray
    third_y: FloatArray
    fourth: float

    @classmethod
    def of(cls, x: FloatArray, y: FloatArray) -> Moments:
        """Those of `(n, d1)` and `(n, d2)`, floating, row i of both of the same sample; n at least 1.

        `UsageError` for shapes that do not meet and values that are not finite.
        """
        _check(x, y)
        return reduce(Moments.__add__, (_of_block(*block) for block in _blocks(x, y)))

    def __add__(self, other: Moments) -> Moments:
        """The sums as if one had seen all rows, up to rounding (after Chan, Golub and LeVeque 1983)."""
        if self.cross.shape != other.cross.shape:
            raise UsageError(
                "widths differ from those before", found=other.cross.shape, allowed=self.cross.shape
            )
        rows = self.rows + other.rows
        mean_x = self.mean_x + (other.mean_x - self.mean_x) * (other.rows / rows)
        mean_y = self.mean_y + (other.mean_y - self.mean_y) * (other.rows / rows)
        ours, theirs = self._about(mean_x, mean_y), other._about(mean_x, mean_y)
        return Moments(
            rows=rows,
            mean_x=mean_x,
            mean_y=mean_y,
            cross=ours.cross + theirs.cross,
            square_x=ours.square_x + theirs.square_x,
            square_y=ours.square_y + theirs.square_y,
            third_x=ours.third_x + theirs.third_x,
            third_y=ours.third_y + theirs.third_y,
            fourth=ours.fourth + theirs.fourth,
        )

    @property
    def hsic(self) -> Hsic:
        """Both estimates; `UsageError` for fewer than 4 rows."""
        n = self.rows
        if n < LEAST_ROWS:
            raise too_few(n)
        whole = float(np.einsum("ij,ij->", self.cross, self.cross))
        squares = self.square_x * self.square_y / ((n - 1) * (n - 2))
        return Hsic(biased=whole, unbiased=whole - n / (n - 2) * self.fourth + squares)

    def row_parts(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """What rows `(m, d1)`, `(m, d2)` of the stream add to the unbiased HSIC beside themselves `(m,)`."""
        left, right = x - self.mean_x, y - self.mean_y
        own = np.einsum("ij,ij->i", left, left) * np.einsum("ij,ij->i", right, right)
        parts: FloatArray = np.einsum("ij,ij->i", left @ self.cross, right) - own
        return parts

    def _about(self, mean_x: FloatArray, mean_y: FloatArray) -> Moments:
        """The same rows about other means: each power of `x + a` and `y + b` written out."""
        n, a, b = self.rows, self.mean_x - mean_x, self.mean_y - mean_y
        aa, bb = float(a @ a), float(b @ b)
        square_x, square_y = self.square_x + n * aa, self.square_y + n * bb
        fourth = self.fourth + 2 * float(self.third_y @ b) + 2 * float(self.third_x @ a)
        fourth += 4 * float(a @ self.cross @ b) + bb * self.square_x + aa * square_y
        return Moments(
            rows=n,
            mean_x=mean_x,
            mean_y=mean_y,
            cross=self.cross + np.outer(n * a, b),
            square_x=square_x,
            square_y=square_y,
            third_x=self.third_x + 2 * (self.cross @ b) + square_y * a,
            third_y=self.third_y + 2 * (a @ self.cross) + square_x * b,
            fourth=fourth,
        )


class LinearCKA:
    """Linear CKA of a stream of blocks; two streams of the same two encoders may be merged.

    Memory: `d1² + d2² + d1·d2` float64, whatever the number of rows.
    """

    def __init__(self) -> None:
        self._sums: tuple[Moments, Moments, Moments] | None = None

    @property
    def rows(self) -> int:
        """Rows seen so far."""
        return self._sums[0].rows if self._sums else 0

    def update(self, x: FloatArray, y: FloatArray) -> None:
        """Add `(b, d1)` and `(b, d2)`, floating; a block of no rows adds nothing.

        `UsageError` for shapes that do not meet each other or those before, and values that are not finite.
        """
        if len(x) or len(y):
            self._add((Moments.of(x, x), Moments.of(y, y), Moments.of(x, y)))

    def merge(self, other: LinearCKA) -> None:
        """Add the rows of another stream."""
        if other._sums is not None:
            self._add(other._sums)

    @property
    def value(self) -> Cka:
        """Both estimates; `UsageError` for fewer than 4 rows or a side that does not vary."""
        if self._sums is None:
            raise too_few(0)
        return cka_of(*self._sums)

    def _add(self, sums: tuple[Moments, Moments, Moments]) -> None:
        if self._sums is not None:
            (xx, yy, xy), (more_xx, more_yy, more_xy) = self._sums, sums
            sums = (xx + more_xx, yy + more_yy, xy + more_xy)
        self._sums = sums


def cka_of(xx: Moments, yy: Moments, xy: Moments) -> Cka:
    """Linear CKA from the sums of a stream: x with itself, y with itself, x with y. Errors: `Cka.of`."""
    return Cka.of(spread(xx), spread(yy), xy.hsic)


def spread(own: Moments) -> Hsic:
    """HSIC of vectors with themselves, 0 where only rounding is left of it."""
    if own.square_x <= _ROUNDING * own.rows * float(own.mean_x @ own.mean_x):
        return Hsic(biased=0.0, unbiased=0.0)
    return own.hsic


def cka_influence(xx: Moments, yy: Moments, xy: Moments, *, x: FloatArray, y: FloatArray) -> FloatArray:
    """`hsic.influence` of the rows `x (m, d1)`, `y (m, d2)` of the stream on its unbiased CKA, `(m,)`."""
    n = xy.rows
    parts = (n * xx.row_parts(x, x), n * yy.row_parts(y, y), n * xy.row_parts(x, y))
    return influence(*parts, of=(spread(xx), spread(yy), xy.hsic))


def linear_cka(x: FloatArray, y: FloatArray) -> Cka:
    """Linear CKA of `(n, d1)` and `(n, d2)` in memory, by the cheaper of `d × d` and `n × n` matrices."""
    _check(x, y)
    if len(x) < min(x.shape[1], y.shape[1]) and _varies(x) and _varies(y):
        k, m = linear_kernel(x), linear_kernel(y)
        return Cka.of(hsic(k, k), hsic(m, m), hsic(k, m))
    return cka_of(Moments.of(x, x), Moments.of(y, y), Moments.of(x, y))


def rbf_cka(
    x: FloatArray, y: FloatArray, *, sigma_x: float | None = None, sigma_y: float | None = None
) -> Cka:
    """CKA with Gaussian kernels of `(n, d1)` and `(n, d2)`: two `n × n` matrices, so for a sample.

    sigma: width of the kernel in units of distance; none: the median distance of each side.
    """
    _check(x, y)
    k, m = rbf_kernel(x, sigma_x)[0], rbf_kernel(y, sigma_y)[0]
    return Cka.of(hsic(k, k), hsic(m, m), hsic(k, m))


def _varies(x: FloatArray) -> bool:
    return bool((x != x[0]).any())


def _of_block(x: FloatArray, y: FloatArray) -> Moments:
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    left, right = x - mean_x, y - mean_y
    square_x, square_y = np.einsum("ij,ij->i", left, left), np.einsum("ij,ij->i", right, right)
    return Moments(
        rows=len(x),
        mean_x=mean_x,
        mean_y=mean_y,
        cross=left.T @ right,
        square_x=float(square_x.sum()),
        square_y=float(square_y.sum()),
        third_x=square_y @ left,
        third_y=square_x @ right,
        fourth=float(square_x @ square_y),
    )


def _blocks(x: FloatArray, y: FloatArray) -> Iterator[tuple[FloatArray, FloatArray]]:
    for at in range(0, len(x), BLOCK):
        part = slice(at, at + BLOCK)
        yield x[part].astype(np.float64), y[part].astype(np.float64)


def _check(x: FloatArray, y: FloatArray) -> None:
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not x.size or not y.size:
        raise UsageError("vectors must be (n, d1) and (n, d2) of the same rows", found=(x.shape, y.shape))
    for name, values in (("first", x), ("second", y)):
        if not np.isfinite(values).all():
            raise UsageError("vectors are not finite", where=f"the {name} side")
