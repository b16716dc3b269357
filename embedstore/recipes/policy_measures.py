"""What one storage policy costs and keeps, measured on a stored feature: bytes, read rate, cosine error."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from embedstore.errors import UsageError
from embedstore.stream.batches import ImageReader

if TYPE_CHECKING:
    from embedstore.store import Feature

_READ, _AT_ONCE, _ROUNDS = 1024, 64, 5
_COMPARED = 256


def stored_bytes(feature: Feature) -> int:
    """Bytes a picture of everything but thumbnails."""
    return sum(feature.array(spec.name).place_bytes for spec in feature.header.arrays)


def read_rate(feature: Feature, *, device: str = "cpu") -> float:
    """Pictures a second from the page cache to float32 tokens on the device, the median of a few rounds.

    The first rows are read, 1,024 at most, in batches of 64; a round before them brings them to memory.
    """
    reader, rows = ImageReader(feature), np.arange(min(_READ, feature.rows))
    batches = [rows[at : at + _AT_ONCE] for at in range(0, len(rows), _AT_ONCE)]
    buffers, place = reader.buffers(min(_AT_ONCE, len(rows))), torch.device(device)

    def read() -> float:
        began = time.perf_counter()
        for batch in batches:
            decoded = reader.read(batch, buffers).to(place).tokens.float()
        decoded.sum().item()
        return time.perf_counter() - began

    read()
    return len(rows) / median(read() for _ in range(_ROUNDS))


def cosine_error(plain: Feature, feature: Feature) -> tuple[float, Literal["tokens", "means"]]:
    """1 − cosine of tokens before and after, the mean over pictures; the first 256 that could be read.

    Of the weighted means of a picture's tokens where there are fewer tokens than before. Zeros have no
    direction: before, they do not count; what became zero has the cosine 0. `UsageError` where all are zero.
    """
    rows = np.flatnonzero(plain.status() == 0)[:_COMPARED]
    # In float64: a difference of 1e-9 is less than float32 can tell from 1.
    x, y = (of.decoded("tokens", rows).astype(np.float64) for of in (plain, feature))
    what: Literal["tokens", "means"] = "tokens"
    if x.shape != y.shape:
        weights = feature.gather("weights", rows) if "weights" in feature.arrays else None
        shares = np.full(y.shape[:2], 1 / y.shape[1]) if weights is None else weights
        x, y, what = x.mean(axis=1), np.einsum("bt,btd->bd", shares, y), "means"
    before, after = np.linalg.norm(x, axis=-1), np.linalg.norm(y, axis=-1)
    known, norms = before > 0, before * after
    if not known.any():
        raise UsageError("no token that was read has a direction", where=plain.name)
    cosines = np.divide((x * y).sum(-1), norms, out=np.zeros(norms.shape), where=norms > 0)
    return max(0.0, float(1 - cosines[known].mean())), what
