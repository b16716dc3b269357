"""Fewer tokens a picture: 2 × 2 pooling, weighted k-means centroids, the mean. Float32 in, float32 out.

All three keep the weighted mean of a picture's tokens. Each picture is a pure function of its own tokens:
nothing is drawn at random.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from embedstore.policies import Policy
    from embedstore.shapes import Float32Array, IntArray

ROUNDS = 12
_GOLDEN = 0.6180339887498949

# Tokens `(b, t, d)`, and the share of the picture that each stands for `(b, t)`; none: equal shares.
Shrunk: TypeAlias = "tuple[Float32Array, Float32Array | None]"


def shrink_tokens(policy: Policy, tokens: Float32Array, grid: tuple[int, int] | None) -> Shrunk:
    """Take the steps of `policy` that lessen tokens, on `tokens (b, t, d)`, row-major over `grid`."""
    weights: Float32Array | None = None
    if policy.pool and grid is not None:
        tokens, weights = pool_2x2(tokens, grid)
    if policy.merge:
        tokens, weights = merge(tokens, policy.merge, weights)
    if policy.mean:
        tokens, weights = mean_token(tokens, weights), None
    return tokens, weights


def pool_2x2(tokens: Float32Array, grid: tuple[int, int]) -> Shrunk:
    """Means of 2 × 2 patches; the last row or column of an odd grid makes smaller cells, then weighted."""
    (rows, columns), (count, _, width) = grid, tokens.shape
    across = np.add.reduceat(
        tokens.reshape(count, rows, columns, width), np.arange(0, columns, 2), axis=2, dtype=np.float64
    )
    sums = np.add.reduceat(across, np.arange(0, rows, 2), axis=1)
    high = np.diff(np.append(np.arange(0, rows, 2), rows))
    wide = np.diff(np.append(np.arange(0, columns, 2), columns))
    cells = (high[:, None] * wide[None, :]).reshape(-1)
    pooled = (sums.reshape(count, len(cells), width) / cells[:, None]).astype(np.float32)
    if rows % 2 == 0 and columns % 2 == 0:
        return pooled, None
    shares = (cells / (rows * columns)).astype(np.float32)
    return pooled, np.broadcast_to(shares, (count, len(cells))).copy()


def mean_token(tokens: Float32Array, weights: Float32Array | None) -> Float32Array:
    """The mean of each picture's tokens, `(b, 1, d)`."""
    wide = np.average(
        tokens.astype(np.float64), axis=1, weights=None if weights is None else _broad(weights, tokens)
    )
    return wide[:, None].astype(np.float32)


def _broad(weights: Float32Array, tokens: Float32Array) -> Float32Array:
    return np.broadcast_to(weights[:, :, None], tokens.shape)


def merge(tokens: Float32Array, k: int, weights: Float32Array | None = None) -> Shrunk:
    """`k` weighted k-means centroids of each picture's tokens `(b, t, d)`, and the share each stands for.

    Seeds by k-means++ (Arthur and Vassilvitskii, SODA 2007) with a fixed low-discrepancy sequence in place
    of random draws; then at most `ROUNDS` rounds of Lloyd. A centroid that lost all its tokens keeps its seed
    and weighs 0. `Σ weight · centroid` is the mean of the tokens, up to rounding.
    """
    count, t, _ = tokens.shape
    shares = np.full((count, t), 1.0 / t, np.float32) if weights is None else weights
    gap = tokens - np.einsum("bt,btd->bd", shares, tokens)[:, None]
    # Everything but the centroids themselves follows from inner products, t × t of them for a picture.
    gram: Float32Array = gap @ gap.transpose(0, 2, 1)
    seeds = _seeds(gram, shares, k)
    mixing = np.zeros((count, k, t), np.float32)
    np.put_along_axis(mixing, seeds[:, :, None], 1.0, axis=2)
    seeded, member = mixing, _nearest(gram, mixing)
    for _ in range(ROUNDS):
        mixing, held = _mixing(member, shares, seeded)
        moved = _nearest(gram, mixing)
        if np.array_equal(moved, member):
            break
        member = moved
    mixing, held = _mixing(member, shares, seeded)
    return mixing @ tokens, held


def _seeds(gram: Float32Array, shares: Float32Array, k: int) -> IntArray:
    """Places `(b, k)` of the first centres: the token nearest to the mean, then far ones before near ones."""
    count, t, _ = gram.shape
    here = np.arange(count)
    squares = np.einsum("btt->bt", gram)
    seeds = np.zeros((count, k), np.int64)
    seeds[:, 0] = squares.argmin(axis=1)
    least = np.full((count, t), np.inf, np.float32)
    for j in range(1, k):
        last = seeds[:, j - 1]
        away = squares + squares[here, last][:, None] - 2 * gram[here, :, last]
        least = np.minimum(least, np.maximum(away, 0))
        reach = np.cumsum(least.astype(np.float64) * shares, axis=1)
        drawn = (j * _GOLDEN) % 1.0 * reach[:, -1:]
        seeds[:, j] = np.minimum((reach <= drawn).sum(axis=1), t - 1)
    return seeds


def _nearest(gram: Float32Array, mixing: Float32Array) -> IntArray:
    """The nearest of the centres that `mixing (b, k, t)` makes, for each token `(b, t)`; first of equals."""
    across = mixing @ gram
    halves = 0.5 * np.einsum("bkt,bkt->bk", across, mixing)
    found: IntArray = (across - halves[:, :, None]).argmax(axis=1)
    return found


def _mixing(
    member: IntArray, shares: Float32Array, seeded: Float32Array
) -> tuple[Float32Array, Float32Array]:
    """How the centroids are mixed of tokens `(b, k, t)`, and the share `(b, k)` of each."""
    held_by = np.zeros_like(seeded)
    np.put_along_axis(held_by, member[:, None], shares[:, None], axis=1)
    held: Float32Array = held_by.sum(axis=2)
    some = held > 0
    mixing = np.where(some[:, :, None], held_by / np.where(some, held, 1.0)[:, :, None], seeded)
    return mixing, held
