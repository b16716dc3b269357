"""One feature of a run: what is missing of it, what the run has done, and what it came to."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from embedstore.encode.progress import FeatureSummary, Progress, log_event, too_many_failed
from embedstore.store import FeatureWriter

if TYPE_CHECKING:
    from pathlib import Path

    from embedstore.documents import FeatureHeader
    from embedstore.encode.engines.options import Part


class FeatureWork:
    """The `units` of one feature that a run must make, and a count of those that it has made.

    Opening it commits the header. `device`: what computes, for a person.
    """

    def __init__(
        self, header: FeatureHeader, *, store: Path, part: Part, max_failed: float, device: str, sampled: int
    ) -> None:
        self.header, self._max_failed, self.device, self._sampled = header, max_failed, device, sampled
        self.writer = FeatureWriter.open(store, header)
        missing = self.writer.missing_units()
        self.units = [unit for unit in missing if part.has(unit)]
        self._before = header.rows - self._rows_of(missing)
        self.fresh = self._failed = self._truncated = 0
        self._started = self._ended = time.monotonic()

    def _rows_of(self, units: list[int]) -> int:
        return sum(len(self.header.unit_rows(unit)) for unit in units)

    def start(self) -> None:
        """The clock of its rate begins."""
        self._started = self._ended = time.monotonic()

    def stored(self, unit: int, *, quarantined: int, truncated: int) -> None:
        """A unit stands; `TooManyFailedError` where more rows than allowed could not be read."""
        self.fresh += len(self.header.unit_rows(unit))
        self._failed += quarantined
        self._truncated += truncated
        self._ended = time.monotonic()
        if self._failed > self._max_failed * self.header.rows:
            self.refuse_failures()

    def refuse_failures(self) -> None:
        """Count over all units that stand, those of earlier runs too."""
        quarantined = self.writer.quarantined()
        if quarantined > self._max_failed * self.header.rows:
            raise too_many_failed(self.header, quarantined, self._max_failed)

    def progress(self, fresh: int) -> Progress:
        """What to show when this run has computed `fresh` rows, stored or not."""
        return Progress(
            feature=self.header.name,
            table=self.header.table,
            done=self._before + fresh,
            total=self.header.rows,
            fresh=fresh,
            seconds=time.monotonic() - self._started,
            device=self.device,
        )

    def finish(self, *, log: Path) -> FeatureSummary:
        """Complete the feature where all its units stand, whoever made them; say what the run did."""
        self.refuse_failures()
        missing = self.writer.missing_units()
        manifest = None if missing else self.writer.finish()
        seconds = self._ended - self._started
        if self.units:
            rate = round(self.fresh / seconds, 1) if seconds else None
            facts = {"rows": self.fresh, "seconds": round(seconds, 3), "rate": rate}
            log_event(log, "encoded", feature=self.header.name, device=self.device, **facts)
        return FeatureSummary(
            name=self.header.name,
            header=self.header,
            manifest=manifest,
            missing_units=len(missing),
            fresh=self.fresh,
            seconds=seconds,
            truncated=self._truncated,
            device=self.device,
            sampled=self._sampled,
        )
