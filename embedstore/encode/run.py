"""The verb `encode`: plan once, then make every feature that is missing, unit by unit."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embedstore.encode.calibrate import calibrated, rows_to_learn_from
from embedstore.encode.features import FeatureJob, ImageJob
from embedstore.encode.images import encode_image_units
from embedstore.encode.jobs import plan_jobs
from embedstore.encode.options import TEXT_TOKENS_PER_PICTURE, EncodeOptions
from embedstore.encode.progress import EncodeSummary, FeatureSummary, Progress, log_event, too_many_failed
from embedstore.encode.texts import encode_text_units
from embedstore.encoders import remember
from embedstore.store import FeatureWriter, Storing, open_store
from embedstore.store.coder import Coder
from embedstore.store.remote import parse_url
from embedstore.store.remote_plan import log_place, publish_plan, written_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from os import PathLike

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
    """Encode `source` into `store`, a folder or URL: one feature an encoder `[NAME=]SPEC`.

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
                remember(job.encoder.card, job.spec)
        # All of them before the first unit: what cannot be learnt is said before hours of encoding.
        ready = [calibrated(job, planned, place, options, report, log=log) for job in jobs]
        done = [
            _FeatureRun(
                job=job,
                sampled=sampled,
                planned=planned,
                store=place,
                log=log,
                options=options,
                writer=FeatureWriter.open(place, job.header),
                on_progress=report,
                started=time.monotonic(),
            ).make()
            for job, sampled in ready
        ]
    return EncodeSummary(
        store=parse_url(str(store)) or Path(store),
        planned=is_new,
        features=tuple(done),
        dropped=planned.source.dropped,
    )


@dataclass(kw_only=True)
class _FeatureRun:
    """One feature on its way: what is missing is encoded, and stored while the next unit is encoded."""

    job: FeatureJob
    sampled: int
    planned: PlannedSource
    store: Path
    log: Path
    options: EncodeOptions
    writer: FeatureWriter
    on_progress: Callable[[Progress], None]
    started: float
    done: int = 0
    fresh: int = 0
    truncated: int = 0

    def make(self) -> FeatureSummary:
        """Make what is missing, then finish the feature."""
        header = self.job.header
        units = self.writer.missing_units()
        self.done = header.rows - sum(len(header.unit_rows(u)) for u in units)
        self._on_rows(0)
        self._write(units)
        self._refuse_failures()
        manifest = self.writer.finish()
        seconds = time.monotonic() - self.started
        if units:
            facts = {"rows": self.fresh, "seconds": round(seconds, 3), "rate": round(self.fresh / seconds, 1)}
            log_event(self.log, "encoded", feature=header.name, device=header.card.device_kind, **facts)
        return FeatureSummary(
            name=header.name,
            manifest=manifest,
            fresh=self.fresh,
            seconds=seconds,
            truncated=self.truncated,
            device=header.card.device_kind,
            sampled=self.sampled,
        )

    def _on_rows(self, count: int) -> None:
        header = self.job.header
        self.fresh += count
        self.on_progress(
            Progress(
                feature=header.name,
                table=header.table,
                done=self.done + self.fresh,
                total=header.rows,
                fresh=self.fresh,
                seconds=time.monotonic() - self.started,
                device=header.card.device_kind,
            )
        )

    def _write(self, units: list[int]) -> None:
        allowed = self.options.max_failed * self.job.header.rows
        failed = 0
        decoding = ThreadPoolExecutor(self.options.decoders, "decode")
        with Storing(self.writer, at_once=1) as storing, decoding as decoders:
            for unit in self._encoded(units, decoders):
                storing.put(unit.unit, unit.arrays, quarantined=unit.quarantined, thumbnails=unit.thumbnails)
                self.truncated += unit.truncated
                failed += len(unit.quarantined)
                if failed > allowed:
                    storing.wait()
                    self._refuse_failures()

    def _encoded(self, units: list[int], decoders: ThreadPoolExecutor) -> Iterator[EncodedUnit]:
        job, coder = self.job, Coder.read(self.writer.path, self.job.header)
        batch_size = self.options.batch_for(job.header.card)
        if isinstance(job, ImageJob):
            return encode_image_units(
                self.planned,
                job.encoder,
                job.header,
                units,
                batch_size=batch_size,
                decoders=decoders,
                ahead=2 * batch_size + self.options.decoders,
                on_rows=self._on_rows,
                coder=coder,
            )
        column = open_store(self.store).texts(["text"])["text"]
        return encode_text_units(
            lambda rows: column.slice(rows[0], len(rows)).to_pylist(),
            job.encoder,
            job.header,
            units,
            token_budget=TEXT_TOKENS_PER_PICTURE * batch_size,
            on_rows=self._on_rows,
            coder=coder,
        )

    def _refuse_failures(self) -> None:
        """Count over all units that stand, those of earlier runs too."""
        quarantined, share = self.writer.quarantined(), self.options.max_failed
        if quarantined > share * self.job.header.rows:
            raise too_many_failed(self.job.header, quarantined, share)
