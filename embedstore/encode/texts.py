"""Text features: a unit's texts are sorted by length and batched by a token budget, so little is padded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from embedstore.encode.convert import to_stored
from embedstore.encode.unit import EncodedUnit
from embedstore.encoders import encode_all
from embedstore.encoders.device import one_openmp_thread
from embedstore.store.geometry import is_packed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import Tensor

    from embedstore.documents import ArrayName
    from embedstore.encode.unit import Target
    from embedstore.encoders.base import TextEncoder
    from embedstore.shapes import AnyArray, IntArray

PADDED = 1.08
"""Tokens computed in a batch over its real tokens, at most."""


def encode_text_units(
    texts: Callable[[Sequence[int]], Sequence[str]],
    encoder: TextEncoder,
    targets: Sequence[Target],
    units: Iterable[int],
    *,
    token_budget: int,
    on_rows: Callable[[int], None],
    rows_of: Callable[[int], Sequence[int]] | None = None,
) -> Iterator[EncodedUnit]:
    """Yield the missing `units` of the text features of one pass in order.

    The texts of the next unit are read and cut into tokens meanwhile. `texts(rows)` reads the texts of some
    rows. `token_budget` bounds texts × longest text of a batch, padding included. A batch never spans two
    units. `rows_of(unit)` where units are of other table rows than the headers'.
    """
    rows_of = rows_of or targets[0].header.unit_rows

    def prepared(unit: int) -> tuple[Sequence[int], list[IntArray], list[bool]]:
        rows = rows_of(unit)
        return rows, *encoder.prepare(texts(rows))

    with ThreadPoolExecutor(1, "tokenize", initializer=one_openmp_thread) as ahead:
        coming = iter(units)
        waiting = [(unit, ahead.submit(prepared, unit)) for unit in islice(coming, 1)]
        while waiting:
            unit, begun = waiting.pop()
            rows, ids, cut = begun.result()
            waiting = [(after, ahead.submit(prepared, after)) for after in islice(coming, 1)]
            batches = token_batches(np.array([len(i) for i in ids]), token_budget)
            arrays = _encode_unit(rows, ids, encoder, targets, batches=batches, on_rows=on_rows)
            yield EncodedUnit(unit=unit, arrays=arrays, truncated=sum(cut))


def _encode_unit(
    rows: Sequence[int],
    ids: Sequence[IntArray],
    encoder: TextEncoder,
    targets: Sequence[Target],
    *,
    batches: Iterator[IntArray],
    on_rows: Callable[[int], None],
) -> tuple[dict[ArrayName, AnyArray], ...]:
    numbers = np.asarray(rows, np.int64)
    lengths = np.array([len(i) for i in ids], np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    arrays: tuple[dict[ArrayName, AnyArray], ...] = tuple(
        {
            spec.name: np.empty(
                (int(offsets[-1]) if is_packed(target.header, spec) else len(ids), *spec.shape[1:]),
                spec.dtype,
            )
            for spec in target.header.arrays
            if spec.name not in ("lengths", "status")
        }
        for target in targets
    )
    for batch in batches:
        outputs = encode_all(encoder, [ids[k] for k in batch])
        places = np.concatenate([np.arange(offsets[k], offsets[k + 1]) for k in batch])
        of = np.repeat(numbers[batch], lengths[batch])
        for target, filled in zip(targets, arrays, strict=True):
            out, coder = outputs[target.output], target.coder
            real: dict[ArrayName, Tensor] = {"tokens": out.tokens[out.mask]}
            for name, values in to_stored(real, coder, rows=of).items():
                filled[name][places] = values
            for name, values in to_stored({"pooled": out.pooled}, coder, rows=numbers[batch]).items():
                filled[name][batch] = values
        on_rows(len(batch))
    return tuple(filled | {"lengths": lengths} for filled in arrays)


def token_batches(lengths: AnyArray, token_budget: int) -> Iterator[IntArray]:
    """Indices of texts, longest first, each batch as large as two limits let it be, at least one text.

    Texts × longest ≤ `token_budget`, and at most `PADDED` times the real tokens: the texts of a small unit
    are few and of all lengths, and would all be padded to the longest. The order of equal lengths is the
    order of rows: the same lengths give the same batches.
    """
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    longest_first = np.maximum(1, lengths[order].astype(np.int64))
    real = np.concatenate([[0], np.cumsum(longest_first)])
    first = 0
    while first < len(order):
        longest = int(longest_first[first])
        counts = np.arange(1, min(len(order) - first, max(1, token_budget // longest)) + 1)
        # Each further text is shorter, so the share that is padded grows with the count.
        little = counts * longest <= PADDED * (real[first + counts] - real[first])
        count = int(np.count_nonzero(little))
        yield order[first : first + count]
        first += count
