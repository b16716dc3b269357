"""Units of a feature written in the background: the disk works while the next unit is made."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from embedstore.documents import ArrayName, QuarantinedRow, UnitRecord
    from embedstore.shapes import AnyArray
    from embedstore.store.writer import FeatureWriter


_MOST_AT_ONCE = 8
_SMALL_BYTES = 64 << 20


class Storing:
    """Writes at most `at_once` units at a time, each in a thread of its own; the arrays must not change.

    From two on, up to eight small ones that are 64 MB together: their flushes then share the disk's. What a
    write raises is raised by the next call, or at the end of the `with` block. `on_stored` is called, by a
    thread, with the record of every unit that stands; what it raises is raised in the same way.
    """

    def __init__(
        self,
        writer: FeatureWriter,
        *,
        at_once: int = 2,
        on_stored: Callable[[UnitRecord], None] | None = None,
    ) -> None:
        self._writer, self._at_once, self._on_stored = writer, at_once, on_stored
        self._pool = ThreadPoolExecutor(max(at_once, _MOST_AT_ONCE), "embedstore-store")
        self._writing: deque[tuple[Future[UnitRecord], int]] = deque()

    def put(
        self,
        unit: int,
        arrays: Mapping[ArrayName, AnyArray],
        *,
        quarantined: Sequence[QuarantinedRow] = (),
        thumbnails: Sequence[bytes | None] | None = None,
    ) -> None:
        """Begin to write a unit, as `FeatureWriter.write_unit` takes it; waits for room first."""
        nbytes = sum(np.asarray(a).nbytes for a in arrays.values())
        while len(self._writing) >= self._at_once and not self._small(nbytes):
            self._wait_for_one()
        begun = self._pool.submit(self._write, unit, arrays, quarantined, thumbnails)
        self._writing.append((begun, nbytes))

    def _write(
        self,
        unit: int,
        arrays: Mapping[ArrayName, AnyArray],
        quarantined: Sequence[QuarantinedRow],
        thumbnails: Sequence[bytes | None] | None,
    ) -> UnitRecord:
        record = self._writer.write_unit(unit, arrays, quarantined=quarantined, thumbnails=thumbnails)
        if self._on_stored is not None:
            self._on_stored(record)
        return record

    def _small(self, nbytes: int) -> bool:
        together = nbytes + sum(n for _, n in self._writing)
        return self._at_once > 1 and len(self._writing) < _MOST_AT_ONCE and together <= _SMALL_BYTES

    def _wait_for_one(self) -> None:
        begun, _ = self._writing.popleft()
        begun.result()

    def wait(self) -> None:
        """Wait until no unit is being written."""
        while self._writing:
            self._wait_for_one()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._pool.shutdown()
