"""The verb `encode`: plan once, then make every feature that is missing, unit by unit."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embedstore.encode.calibrate import calibrated, rows_to_learn_from
from embedstore.encode.decoding import open_decoders
from embedstore.encode.features import FeatureJob, ImageJob, passes_of
from embedstore.encode.images import encode_image_units
from embedstore.encode.jobs import plan_jobs
from embedstore.encode.options import TEXT_TOKENS_PER_PICTURE, EncodeOptions
from embedstore.encode.progress import (
    EncodeSummary,
    FeatureSummary,
    Progress,
    log_event,
    name_of_pass,
    too_many_failed,
)
from embedstore.encode.texts import encode_text_units
from embedstore.encode.unit import Target
from embedstore.encoders import remember
from embedstore.store import FeatureWriter, Storing, open_store
from embedstore.store.coder import Coder
from embedstore.store.remote import parse_url
from embedstore.store.remote_plan import log_place, publish_plan, written_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from os import PathLike

    from embedstore.documents import FeatureHeader
    from embedstore.encode.decoding import Decoders
    from embedstore.encode.plan import PlannedSource
    from embedstore.encode.unit import EncodedUnit


def encode_source(
    source: str,
    store: str | PathLike[str],
    *,
    image_encoders: Sequence[str] = (),
    text_encoders: Sequence[str] = (),
    options: EncodeOptions | None = None,
    append: str | Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> EncodeSummary:
    """Encode `source` into `store`, a folder or URL: the features of each `[NAME=]SPEC`.

    Makes only what is missing: killed at any moment and run again, the files come out byte-identical. Raises
    `MismatchError` where the source or an encoder differs from what the store was made from,
    `TooManyFailedError` where more rows than `options.max_failed` cannot be read; finished units stay.
    `StorageValueError` where there are too few rows for a policy that learns: a sample of them is encoded
    first then, once more than the others.

    `append`: a store (or `A+B`) whose features are made here over new rows, so that `append+store` reads as
    one; encoders are then those of its features, and ids that it has already are refused.
    """
    options = options or EncodeOptions()
    log = log_place(store)
    report = on_progress or (lambda _: None)
    with written_at(store, what="encode") as place:
        # A mistake in a spec, a name or a policy must leave no store that a corrected command would not fit.
        planned, jobs = plan_jobs(
            source, place, image_encoders, text_encoders, options=options, append=append
        )
        for job in jobs:
            rows_to_learn_from(job, planned.plan, place)  # refuses a policy that the rows are too few for
        is_new = publish_plan(place, made=planned.write(place))
        if is_new:
            log_event(log, "planned", images=planned.plan.images, texts=planned.plan.texts)
        for job in jobs:
            if job.spec is not None:
                remember(job.header.card, job.spec)
        # All of them before the first unit: what cannot be learnt is said before hours of encoding.
        ready = {job.header.name: calibrated(job, planned, place, options, report, log=log) for job in jobs}
        made: dict[str, FeatureSummary] = {}
        for together in passes_of(job for job, _ in ready.values()):
            run = _PassRun(
                features=[
                    _Feature(
                        job=job,
                        writer=FeatureWriter.open(place, job.header),
                        sampled=ready[job.header.name][1],
                    )
                    for job in together
                ],
                planned=planned,
                store=place,
                log=log,
                options=options,
                on_progress=report,
                started=time.monotonic(),
            )
            made |= {summary.name: summary for summary in run.make()}
    return EncodeSummary(
        store=parse_url(str(store)) or Path(store),
        planned=is_new,
        features=tuple(made[name] for name in ready),
        dropped=planned.source.dropped,
    )


@dataclass(kw_only=True)
class _Feature:
    """One feature of a pass: `missing` units are to be made, `truncated` counts texts that were cut."""

    job: FeatureJob
    writer: FeatureWriter
    sampled: int
    missing: frozenset[int] = frozenset()
    truncated: int = 0

    @property
    def header(self) -> FeatureHeader:
        return self.job.header

    @property
    def fresh(self) -> int:
        """Rows that this run makes."""
        return sum(len(self.header.unit_rows(unit)) for unit in self.missing)

    def refuse_failures(self, share: float) -> None:
        """Count over all units that stand, those of earlier runs too."""
        quarantined = self.writer.quarantined()
        if quarantined > share * self.header.rows:
            raise too_many_failed(self.header, quarantined, share)


@dataclass(kw_only=True)
class _PassRun:
    """The features of one pass on their way.

    A unit is encoded once for all of them that lack it, and stored while the next one is encoded.
    """

    features: list[_Feature]
    planned: PlannedSource
    store: Path
    log: Path
    options: EncodeOptions
    on_progress: Callable[[Progress], None]
    started: float
    done: int = 0
    fresh: int = 0

    def make(self) -> list[FeatureSummary]:
        """Make what is missing, then finish the features."""
        for feature in self.features:
            feature.missing = frozenset(feature.writer.missing_units())
        units = sorted(frozenset().union(*(feature.missing for feature in self.features)))
        header = self.features[0].header
        self.done = header.rows - sum(len(header.unit_rows(u)) for u in units)
        self._on_rows(0)
        self._write(units)
        return [self._finish(feature) for feature in self.features]

    def _finish(self, feature: _Feature) -> FeatureSummary:
        feature.refuse_failures(self.options.max_failed)
        manifest = feature.writer.finish()
        seconds = time.monotonic() - self.started
        header, fresh = feature.header, feature.fresh
        if feature.missing:
            facts = {"rows": fresh, "seconds": round(seconds, 3), "rate": round(fresh / seconds, 1)}
            log_event(self.log, "encoded", feature=header.name, device=header.card.device_kind, **facts)
        return FeatureSummary(
            name=header.name,
            manifest=manifest,
            fresh=fresh,
            seconds=seconds,
            truncated=feature.truncated,
            device=header.card.device_kind,
            sampled=feature.sampled,
        )

    def _on_rows(self, count: int) -> None:
        header = self.features[0].header
        self.fresh += count
        self.on_progress(
            Progress(
                feature=name_of_pass([feature.header.name for feature in self.features]),
                table=header.table,
                done=self.done + self.fresh,
                total=header.rows,
                fresh=self.fresh,
                seconds=time.monotonic() - self.started,
                device=header.card.device_kind,
            )
        )

    def _write(self, units: list[int]) -> None:
        allowed = self.options.max_failed * self.features[0].header.rows
        failed = 0
        with ExitStack() as stack:
            storing = [stack.enter_context(Storing(f.writer, at_once=1)) for f in self.features]
            decoders = stack.enter_context(open_decoders(self.options))
            for unit in self._encoded(units, decoders):
                for feature, arrays, place in zip(self.features, unit.arrays, storing, strict=True):
                    if unit.unit in feature.missing:
                        kept = unit.thumbnails if feature.header.thumbnails else None
                        place.put(unit.unit, arrays, quarantined=unit.quarantined, thumbnails=kept)
                        feature.truncated += unit.truncated
                failed += len(unit.quarantined)
                if failed > allowed:
                    for feature, place in zip(self.features, storing, strict=True):
                        place.wait()
                        feature.refuse_failures(self.options.max_failed)

    def _encoded(self, units: list[int], decoders: Decoders) -> Iterator[EncodedUnit]:
        job = self.features[0].job
        targets = [
            Target(header=f.header, coder=Coder.read(f.writer.path, f.header), output=f.job.output)
            for f in self.features
        ]
        batch_size = self.options.batch_for(job.header.card)
        if isinstance(job, ImageJob):
            return encode_image_units(
                self.planned,
                job.encoder,
                targets,
                units,
                batch_size=batch_size,
                decoders=decoders,
                on_rows=self._on_rows,
            )
        column = open_store(self.store).texts(["text"])["text"]
        return encode_text_units(
            lambda rows: column.slice(rows[0], len(rows)).to_pylist(),
            job.encoder,
            targets,
            units,
            token_budget=TEXT_TOKENS_PER_PICTURE * batch_size,
            on_rows=self._on_rows,
        )
