"""What every exact search here stands on: float32 products, their error bound, and scores of single pairs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

from embedstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from embedstore.shapes import FloatArray, IntArray

BLOCK = 4096
_PAIR_VALUES = 1 << 16
_TILE, _LEAST_SHARE = 1024, 128


def pair_scores(queries: FloatArray, gallery: FloatArray, left: IntArray, right: IntArray) -> FloatArray:
    """Inner products of `queries[left]` and `gallery[right]`, `(m,)` float64, row by row.

    Inputs count as float32, whose products are exact in float64; each pair is summed alone and in the same
    way, so that equal vectors have equal scores wherever they stand.
    """
    scores = np.empty(len(left), dtype=np.float64)
    step = max(1, _PAIR_VALUES // max(1, queries.shape[1]))
    for at in range(0, len(left), step):
        part = slice(at, at + step)
        q, g = (v.astype(np.float32, copy=False) for v in (queries[left[part]], gallery[right[part]]))
        scores[part] = np.multiply(q, g, dtype=np.float64).sum(axis=1)
    return scores


def slack_of(queries: FloatArray, gallery: FloatArray, block: int) -> float:
    """`slack_between` for these vectors."""
    return slack_between(longest(queries, block), longest(gallery, block), queries.shape[1])


def slack_between(query: float, other: float, width: int) -> float:
    """Bound on the error of any float32 score of vectors of these lengths, underflow included.

    `UsageError` where scores could overflow.
    """
    u: float = width / 2**24
    slack = u / (1 - u) * query * other * (1 + 1e-9) + 1e-30
    if slack > 1e30:
        raise UsageError("embeddings are too long for float32 scores", todo="normalise them first")
    return slack


def parts(n: int, block: int) -> Iterator[slice]:
    """`range(n)` cut into slices of `block`."""
    return (slice(at, min(at + block, n)) for at in range(0, n, block))


def score_tiles(
    queries: FloatArray, gallery: FloatArray, block: int, device: str
) -> Iterator[tuple[int, Tensor, tuple[Tensor, Tensor]]]:
    """First gallery row and float32 scores of each tile of all the queries, and two tensors of its shape.

    The two are there to be written to; all are written again for the next tile.
    """
    wide = block if device != "cpu" else min(block, _TILE)
    left, room = (
        tensor(queries, device),
        torch.empty((3, len(queries) * min(wide, len(gallery))), dtype=torch.float32, device=device),
    )
    for part in parts(len(gallery), wide):
        shape = (len(queries), part.stop - part.start)
        scores, *flags = (one[: shape[0] * shape[1]].view(shape) for one in room)
        torch.mm(left, tensor(gallery[part], device).T, out=scores)
        yield part.start, scores, (flags[0], flags[1])


def in_shares(
    count: int,
    block: int,
    device: str,
    work: Callable[[slice], None],
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """`work` on shares of `range(count)`, of `block` at most; on a CPU by as many threads as torch has.

    `on_progress(done, count)` after each share, from the calling thread.

    There products take one thread each and shares are so small that tiles stay in the caches. Threads of
    torch's own wait for each other after every operation, which costs more than it gains for tiles, and
    twice the time where others use the machine.
    """
    threads = torch.get_num_threads() if device == "cpu" else 1
    share = block if device != "cpu" else min(block, _TILE, max(_LEAST_SHARE, -(-count // (4 * threads))))
    shares = list(parts(count, share))
    if threads == 1 or len(shares) < 2:
        for part in shares:
            work(part)
            if on_progress is not None:
                on_progress(part.stop, count)
        return
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(min(threads, len(shares)))
    try:
        for part, done in [(part, pool.submit(work, part)) for part in shares]:
            done.result()
            if on_progress is not None:
                on_progress(part.stop, count)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def longest(vectors: FloatArray, block: int) -> float:
    """An upper bound, close, on the Euclidean length of the rows; 0 where there are none."""
    return max((_longest(vectors[part]) for part in parts(len(vectors), block)), default=0.0)


def _longest(vectors: FloatArray) -> float:
    narrow = vectors.astype(np.float32, copy=False)
    squares = float(np.einsum("ij,ij->i", narrow, narrow).max())
    if not squares < 1e30:  # too long for float32, or no number
        wide = vectors.astype(np.float64)
        squares = float((wide * wide).sum(axis=1).max())
    # What float32 lost: to rounding, and of squares below its range.
    return float(np.sqrt(squares) * (1 + vectors.shape[1] / 2**23) + 1e-18)


def tensor(values: FloatArray, device: str) -> Tensor:
    """The values as float32 on a device, to be read only: their own memory where that is possible."""
    narrow = np.ascontiguousarray(values, dtype=np.float32)
    # Torch warns of memory that it must not write to.
    return torch.from_numpy(narrow if narrow.flags.writeable else narrow.copy()).to(device)


def outward(values: Tensor, *, up: bool) -> Tensor:
    """To float32 without ever narrowing the band."""
    edge = torch.tensor(torch.inf if up else -torch.inf, dtype=torch.float32)
    return torch.nextafter(values.float(), edge)


def check(queries: FloatArray, gallery: FloatArray, block: int) -> None:
    """`UsageError` for shapes that do not meet, a block of no rows, and values that are not finite."""
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise UsageError(
            "queries and gallery must be (q, e) and (n, e)", found=(queries.shape, gallery.shape)
        )
    if not 1 <= block < 2**24:
        raise UsageError("a block has at least one row", found=block, allowed="1 to 2^24 - 1")
    for name, values in (("queries", queries), ("gallery", gallery)):
        for part in parts(len(values), block):
            if not np.isfinite(values[part]).all():
                raise UsageError("embeddings are not finite", where=name, found=f"in rows from {part.start}")


@contextmanager
def full_precision() -> Iterator[None]:
    """Float32 products in float32: the error bound does not hold for TF32 or bfloat16 passes."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
