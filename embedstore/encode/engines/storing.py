"""Units of a pass on their way to the store: a writer for each feature, at work beside the model."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from embedstore.store import Storing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embedstore.documents import UnitRecord
    from embedstore.encode.engines.work import WorkOnFeature
    from embedstore.encode.unit import EncodedUnit


class PassStoring:
    """Stores a unit in every feature that lacks it.

    `on_stored(unit, quarantined rows, truncated texts)` is called by a thread when it stands in all of them.
    What a write or that call raises is raised by the next `put`, or at the end of the `with` block.
    """

    def __init__(
        self, features: Sequence[WorkOnFeature], *, on_stored: Callable[[int, int, int], None]
    ) -> None:
        self._features, self._on_stored = features, on_stored
        self._stack = ExitStack()
        self._storing: list[Storing] = []
        self._lock = threading.Lock()
        self._waiting: dict[int, int] = {}
        self._facts: dict[int, tuple[int, int]] = {}

    def put(self, made: EncodedUnit) -> None:
        """Begin to store a unit; waits for the one before."""
        lacking = [k for k, feature in enumerate(self._features) if made.unit in feature.missing]
        with self._lock:
            self._facts[made.unit] = len(made.quarantined), made.truncated
            self._waiting[made.unit] = len(lacking)
        if not lacking:
            self._tell(made.unit)
        for k in lacking:
            kept = made.thumbnails if self._features[k].header.thumbnails else None
            self._storing[k].put(made.unit, made.arrays[k], quarantined=made.quarantined, thumbnails=kept)

    def _stored(self, record: UnitRecord) -> None:
        with self._lock:
            self._waiting[record.unit] -= 1
            whole = not self._waiting[record.unit]
        if whole:
            self._tell(record.unit)

    def _tell(self, unit: int) -> None:
        with self._lock:
            del self._waiting[unit]
            quarantined, truncated = self._facts.pop(unit)
        self._on_stored(unit, quarantined, truncated)

    def __enter__(self) -> Self:
        self._storing = [
            self._stack.enter_context(Storing(f.writer, at_once=1, on_stored=self._stored))
            for f in self._features
        ]
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._stack.__exit__(kind, *error)  # type: ignore[arg-type]  # as they were given
