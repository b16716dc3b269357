"""Units of a feature written in the background: the disk works while the next unit is made."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedstore.documents import ArrayName, QuarantinedRow, UnitRecord
    from embedstore.shapes import AnyArray
    from embedstore.store.writer import FeatureWriter


class Storing:
    """Writes at most `at_once` units at a time, each in a thread of its own; the arrays must not change.

    What a write raises is raised by the next call, or at the end of the `with` block.
    """

    def __init__(self, writer: FeatureWriter, *, at_once: int = 2) -> None:
        self._writer, self._at_once = writer, at_once
        self._pool = ThreadPoolExecutor(at_once, "embedstore-store")
        self._writing: deque[Future[UnitRecord]] = deque()

    def put(
        self,
        unit: int,
        arrays: Mapping[ArrayName, AnyArray],
        *,
        quarantined: Sequence[QuarantinedRow] = (),
        thumbnails: Sequence[bytes | None] | None = None,
    ) -> None:
        """Begin to write a unit, as `FeatureWriter.write_unit` takes it; waits for room first."""
        self.wait(self._at_once - 1)
        write = self._writer.write_unit
        self._writing.append(
            self._pool.submit(write, unit, arrays, quarantined=quarantined, thumbnails=thumbnails)
        )

    def wait(self, most: int = 0) -> None:
        """Wait until at most so many units are being written."""
        while len(self._writing) > most:
            self._writing.popleft().result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._pool.shutdown()
