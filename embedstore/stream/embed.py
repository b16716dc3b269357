"""Whole features through a head: in row order, read ahead, one float32 row a sample.

The head comes as two callables, so that this layer knows no head: fit's validation and every bench task
embed by these functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from embedstore.errors import UsageError
from embedstore.stream.ahead import ReadAhead, buffer_sets
from embedstore.stream.batches import ImageBuffers, ImageReader, ImageTokens, TextReader, TextTokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from embedstore.shapes import Float32Array, IntArray
    from embedstore.store import Feature

Tokens = TypeVar("Tokens", ImageTokens, TextTokens)


def iter_images(
    feature: Feature, rows: IntArray, *, batch: int = 256, pin: bool = False
) -> ReadAhead[IntArray, ImageBuffers, ImageTokens]:
    """Pictures `(n,)` in the given order, `batch` at a time; quarantined rows are refused.

    A batch is valid until the next one is asked for.
    """
    refuse_quarantined(feature, rows)
    reader = ImageReader(feature)
    sets = buffer_sets(reader.row_bytes * batch)
    buffers = [reader.buffers(min(batch, max(1, len(rows))), pin=pin) for _ in range(sets)]
    return ReadAhead(_cut(rows, batch), reader.read, buffers)


def iter_texts(
    feature: Feature, rows: IntArray, *, batch: int = 1024
) -> ReadAhead[IntArray, int, TextTokens]:
    """Texts `(n,)` in the given order, `batch` at a time; quarantined rows are refused."""
    refuse_quarantined(feature, rows)
    reader = TextReader(feature)
    return ReadAhead(_cut(rows, batch), lambda part, _: reader.read(part), range(2))


def embed_images(
    feature: Feature,
    rows: IntArray,
    embed: Callable[[ImageTokens], Tensor],
    *,
    batch: int = 256,
    device: torch.device | str = "cpu",
) -> Float32Array:
    """`embed` of every picture in the given order, `(n, e)` float32 on the host, without gradients."""
    with iter_images(feature, rows, batch=batch) as stream:
        return _collect(stream, embed, len(rows), torch.device(device))


def embed_texts(
    feature: Feature,
    rows: IntArray,
    embed: Callable[[TextTokens], Tensor],
    *,
    batch: int = 1024,
    device: torch.device | str = "cpu",
) -> Float32Array:
    """`embed` of every text in the given order, `(m, e)` float32 on the host, without gradients."""
    with iter_texts(feature, rows, batch=batch) as stream:
        return _collect(stream, embed, len(rows), torch.device(device))


def refuse_quarantined(feature: Feature, rows: IntArray) -> None:
    """`UsageError` where one of these rows could not be read when it was encoded."""
    bad = rows[feature.status()[rows] != 0]
    if bad.size:
        raise UsageError(
            "quarantined rows have no tokens",
            where=feature.name,
            found=f"{bad.size} such rows, the first is row {bad[0]}",
            todo="leave out rows whose status is not 0, and count them",
        )


@torch.inference_mode()
def _collect(
    stream: Iterable[Tokens], embed: Callable[[Tokens], Tensor], count: int, device: torch.device
) -> Float32Array:
    out: Float32Array | None = None
    at = 0
    for tokens in stream:
        part = embed(tokens.to(device)).float().cpu().numpy()
        if out is None:
            out = np.empty((count, part.shape[1]), np.float32)
        out[at : at + len(part)] = part
        at += len(part)
    if out is None:
        raise UsageError("no rows to embed")
    return out


def _cut(rows: IntArray, batch: int) -> list[IntArray]:
    return [rows[at : at + batch] for at in range(0, len(rows), batch)]
