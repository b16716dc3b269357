"""Fewer numbers a token: a principal basis, and a product quantiser. Learnt from a sample of tokens.

Errors: `pca-D` loses exactly the part of `x − μ` that is orthogonal to the basis; `pq-M` puts the nearest of
256 learnt vectors in place of each of the M parts of a token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import StorageValueError

if TYPE_CHECKING:
    from embedstore.shapes import AnyArray, ByteArray, Float32Array

CODES = 256
_PQ_SEED = 1234
_SLICE_PLACES = 16384


def learn_basis(sample: Float32Array, width: int) -> tuple[Float32Array, Float32Array]:
    """Mean `(d,)` of `sample (n, d)` and its `width` orthonormal principal directions `(width, d)`.

    The largest component of a direction is positive, so that one sample gives one basis.
    """
    mean: AnyArray = sample.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((sample.shape[1],) * 2)
    for first in range(0, len(sample), _SLICE_PLACES):
        gap = sample[first : first + _SLICE_PLACES].astype(np.float64) - mean
        covariance += gap.T @ gap
    directions: AnyArray = np.linalg.eigh(covariance)[1][:, ::-1][:, :width].T
    largest = np.abs(directions).argmax(axis=1)
    signs = np.sign(directions[np.arange(width), largest])
    return mean.astype(np.float32), (directions * signs[:, None]).astype(np.float32)


def to_basis(values: Float32Array, mean: Float32Array, basis: Float32Array) -> Float32Array:
    """Coordinates `(…, width)` of `(…, d)`."""
    found: AnyArray = (values - mean) @ basis.T
    return found


def from_basis(coordinates: Float32Array, mean: Float32Array, basis: Float32Array) -> Float32Array:
    """The vectors `(…, d)` with these coordinates `(…, width)`."""
    found: AnyArray = coordinates @ basis
    found += mean
    return found


def learn_codebook(sample: Float32Array, parts: int) -> Float32Array:
    """256 vectors for each of `parts` equal parts of the tokens `(n, d)`: `(parts, 256, d / parts)`.

    By FAISS (Jégou, Douze and Schmid, "Product quantization for nearest neighbor search", 2011). Raises
    `StorageValueError` where the sample has fewer than 256 tokens.
    """
    import faiss

    if len(sample) < CODES:
        raise StorageValueError(
            "too few tokens to learn a product quantiser from", found=len(sample), allowed=f"{CODES} or more"
        )
    width = sample.shape[1]
    quantiser = faiss.ProductQuantizer(width, parts, 8)
    quantiser.cp.seed = _PQ_SEED
    quantiser.cp.min_points_per_centroid = 1
    quantiser.train(np.ascontiguousarray(sample, np.float32))
    codebook: Float32Array = faiss.vector_to_array(quantiser.centroids).reshape(parts, CODES, width // parts)
    return codebook


def encode_pq(values: Float32Array, codebook: Float32Array) -> ByteArray:
    """The nearest code of each part of `(…, d)`: `(…, parts)`; the first of equals."""
    parts, _, width = codebook.shape
    flat = values.reshape(-1, parts, width)
    codes = np.empty(flat.shape[:2], np.uint8)
    half = 0.5 * np.einsum("pcw,pcw->pc", codebook, codebook)
    for first in range(0, len(flat), _SLICE_PLACES):
        some = flat[first : first + _SLICE_PLACES]
        for part in range(parts):
            close = some[:, part] @ codebook[part].T
            close -= half[part]
            codes[first : first + len(some), part] = close.argmax(axis=1)
    return codes.reshape(*values.shape[:-1], parts)


def decode_pq(codes: ByteArray, codebook: Float32Array) -> Float32Array:
    """The learnt vectors of `(…, parts)` side by side: `(…, d)`."""
    parts, _, width = codebook.shape
    found: Float32Array = codebook[np.arange(parts), codes]
    return found.reshape(*codes.shape[:-1], parts * width)
