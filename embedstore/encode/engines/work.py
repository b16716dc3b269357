"""The features of one pass: what is missing of them, what a run has done, and what it came to."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedstore.encode.progress import FeatureSummary, Progress, log_event, name_of_pass, too_many_failed
from embedstore.store import FeatureWriter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from embedstore.documents import FeatureHeader
    from embedstore.encode.engines.options import Part


@dataclass(kw_only=True)
class WorkOnFeature:
    """One feature of a pass: the units that it lacked, and what this run has made of them."""

    header: FeatureHeader
    writer: FeatureWriter
    missing: frozenset[int]
    fresh: int = 0
    truncated: int = 0

    @classmethod
    def begin(cls, store: Path, header: FeatureHeader) -> WorkOnFeature:
        """Commit the header, or find it, and see what is missing."""
        writer = FeatureWriter.open(store, header)
        return cls(header=header, writer=writer, missing=frozenset(writer.missing_units()))


class WorkOnPass:
    """The `units` that a run must make for the features of one pass, and a count of those that it has made.

    Beginning it commits the headers. `device`: what computes, for a person. `sampled` as in `Session`.
    """

    def __init__(
        self,
        headers: Sequence[FeatureHeader],
        *,
        store: Path,
        part: Part,
        max_failed: float,
        device: str,
        sampled: Mapping[str, int],
    ) -> None:
        self.features = [WorkOnFeature.begin(store, header) for header in headers]
        self._max_failed, self.device, self._sampled = max_failed, device, sampled
        self.header = headers[0]
        missing = sorted(frozenset().union(*(f.missing for f in self.features)))
        self.units = [unit for unit in missing if part.has(unit)]
        self._before = self.header.rows - sum(len(self.header.unit_rows(unit)) for unit in missing)
        self.fresh = self._failed = 0
        self._started = self._ended = time.monotonic()

    def start(self) -> None:
        """The clock of its rate begins."""
        self._started = self._ended = time.monotonic()

    def stored(self, unit: int, *, quarantined: int, truncated: int) -> None:
        """A unit stands in all features; `TooManyFailedError` where more rows than allowed were not read."""
        rows = len(self.header.unit_rows(unit))
        self.fresh += rows
        self._ended = time.monotonic()
        for feature in self.features:
            if unit in feature.missing:
                feature.fresh += rows
                feature.truncated += truncated
        self._failed += quarantined
        if self._failed > self._max_failed * self.header.rows:
            self._refuse_failures()

    def _refuse_failures(self) -> None:
        """Count over all units that stand, those of earlier runs too."""
        for feature in self.features:
            quarantined = feature.writer.quarantined()
            if quarantined > self._max_failed * feature.header.rows:
                raise too_many_failed(feature.header, quarantined, self._max_failed)

    def progress(self, fresh: int) -> Progress:
        """What to show when this run has computed `fresh` rows, stored or not."""
        return Progress(
            feature=name_of_pass([feature.header.name for feature in self.features]),
            table=self.header.table,
            done=self._before + fresh,
            total=self.header.rows,
            fresh=fresh,
            seconds=time.monotonic() - self._started,
            device=self.device,
        )

    def finish(self, *, log: Path) -> list[FeatureSummary]:
        """Complete the features of which all units stand, whoever made them; say what the run did."""
        self._refuse_failures()
        return [self._finish(feature, log) for feature in self.features]

    def _finish(self, feature: WorkOnFeature, log: Path) -> FeatureSummary:
        missing = feature.writer.missing_units()
        manifest = None if missing else feature.writer.finish()
        seconds, name = self._ended - self._started, feature.header.name
        if feature.fresh:
            facts = {"rows": feature.fresh, "seconds": round(seconds, 3)}
            log_event(
                log,
                "encoded",
                feature=name,
                device=self.device,
                rate=round(feature.fresh / max(seconds, 1e-9), 1),
                **facts,
            )
        return FeatureSummary(
            name=name,
            header=feature.header,
            manifest=manifest,
            missing_units=len(missing),
            fresh=feature.fresh,
            seconds=seconds,
            truncated=feature.truncated,
            device=self.device,
            sampled=self._sampled[name],
        )
