"""What a policy must learn before an encode can store anything: from a sample of rows, encoded for it alone.

The sample is fixed by the plan (`store.calibration.sample_rows`), so any process learns the same from the
same encoder; the first to commit decides for all. The rows are encoded again when their units come.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from embedstore.encode.append import copy_calibration
from embedstore.encode.decoding import open_decoders
from embedstore.encode.features import ImageJob
from embedstore.encode.images import encode_image_units
from embedstore.encode.options import TEXT_TOKENS_PER_PICTURE
from embedstore.encode.progress import Progress, log_event, too_many_failed
from embedstore.encode.texts import encode_text_units
from embedstore.encode.unit import Target
from embedstore.encoders.views import ViewedImages
from embedstore.store import layout, open_store, plan_feature
from embedstore.store.coding import calibration as learning
from embedstore.store.coding.coder import Coder
from embedstore.store.geometry import effective_policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from embedstore.documents import ArrayName, Plan
    from embedstore.encode.features import FeatureJob, TextJob
    from embedstore.encode.options import EncodeOptions
    from embedstore.encode.plan import PlannedSource
    from embedstore.shapes import AnyArray, Float32Array, IntArray


def rows_to_learn_from(job: FeatureJob, plan: Plan, store: Path) -> IntArray:
    """Table rows that must be encoded before the first unit; empty where nothing is left to learn.

    Raises `StorageValueError` where they cannot have the tokens that the policy needs.
    """
    policy = effective_policy(job.header.policy, job.header.card)
    there = layout.feature(store, job.header.name) / layout.CALIBRATION
    if not policy.learns or job.continues is not None or there.is_file():
        return np.empty(0, np.int64)
    kept = learning.planned_tokens(job.header, policy)
    rows = learning.sample_rows(plan, rows=job.header.rows, tokens=kept)
    if job.header.table == "images":
        learning.refuse_few_tokens(policy, len(rows) * kept)
    return rows


def calibrated(
    job: FeatureJob,
    planned: PlannedSource,
    store: Path,
    options: EncodeOptions,
    on_progress: Callable[[Progress], None],
    *,
    log: Path,
) -> tuple[FeatureJob, int]:
    """The job with what its policy has learnt committed to the store, and the rows encoded for that.

    Raises `StorageValueError` where the sample is too small, `MismatchError` where the folder holds what
    another feature has learnt, `TooManyFailedError` where too many of the sampled rows cannot be read.
    """
    if job.continues is not None:
        copy_calibration(job, store)
        return job, 0
    header = job.header
    policy = effective_policy(header.policy, header.card)
    there = layout.feature(store, header.name) / layout.CALIBRATION
    if not policy.learns or (header.calibration_sha256 is not None and there.is_file()):
        return job, 0
    rows = rows_to_learn_from(job, planned.plan, store)
    sample = _Sample(
        job=job, planned=planned, store=store, log=log, options=options, on_progress=on_progress, rows=rows
    )
    identity = {
        "policy": header.policy,
        "plan": planned.plan.fingerprint,
        "card": header.card.fingerprint,
    }
    found = learning.commit(store, header.name, identity=identity, make=sample.learn)
    learnt = header.model_copy(update={"calibration_sha256": found.sha256})
    return replace(job, header=learnt), sample.done


@dataclass(kw_only=True)
class _Sample:
    """The sampled `rows (n,)` of one feature, encoded as plain float32; `done` of them so far."""

    job: FeatureJob
    planned: PlannedSource
    store: Path
    log: Path
    options: EncodeOptions
    on_progress: Callable[[Progress], None]
    rows: IntArray
    done: int = 0
    started: float = field(default_factory=time.monotonic)

    def learn(self) -> dict[str, Float32Array]:
        """Encode the rows and learn from them."""
        header = self.job.header
        policy = effective_policy(header.policy, header.card)
        self._on_rows(0)
        slices = self._images(self.job) if isinstance(self.job, ImageJob) else self._texts(self.job)
        learnt = learning.learn_from(policy, slices, grid=header.card.grid)
        log_event(
            self.log,
            "calibrated",
            feature=header.name,
            policy=header.policy,
            rows=self.done,
            seconds=round(time.monotonic() - self.started, 3),
        )
        return learnt

    def _on_rows(self, count: int) -> None:
        self.done += count
        self.on_progress(
            Progress(
                feature=self.job.header.name,
                table=self.job.header.table,
                done=self.done,
                total=len(self.rows),
                fresh=self.done,
                seconds=time.monotonic() - self.started,
                device=self.job.header.card.device_kind,
                step="calibrate",
            )
        )

    def _plain(self, output: int) -> Target:
        """The feature as it would be with every number kept, from an output of the encoder."""
        header = self.job.header
        plain = plan_feature(name=header.name, plan=self.planned.plan, card=header.card, policy="float32")
        return Target(header=plain, coder=Coder.of(plain), output=output)

    def _images(self, job: ImageJob) -> Iterator[dict[ArrayName, AnyArray]]:
        """Good rows, one batch at a time."""
        size = self.options.batch_for(job.header.card)
        failed = 0
        encoder, output = job.encoder, job.output
        if isinstance(encoder, ViewedImages):  # the other views would be passes of their own
            encoder, output = encoder.only([output]), 0
        with open_decoders(self.options) as decoders:
            for batch in encode_image_units(
                self.planned,
                encoder,
                [self._plain(output)],
                list(range(-(-len(self.rows) // size))),
                batch_size=size,
                decoders=decoders,
                on_rows=self._on_rows,
                rows_of=lambda unit: self.rows[unit * size : (unit + 1) * size].tolist(),
            ):
                failed += len(batch.quarantined)
                if failed > self.options.max_failed * job.header.rows:
                    raise too_many_failed(job.header, failed, self.options.max_failed)
                bad = {q.row for q in batch.quarantined}
                rows = self.rows[batch.unit * size : (batch.unit + 1) * size].tolist()
                good = [row not in bad for row in rows]
                if any(good):
                    yield {name: values[good] for name, values in batch.arrays[0].items()}

    def _texts(self, job: TextJob) -> Iterator[dict[ArrayName, AnyArray]]:
        column = open_store(self.store).texts(["text"])["text"]
        for unit in encode_text_units(
            lambda rows: column.take(rows).to_pylist(),
            job.encoder,
            [self._plain(job.output)],
            [0],
            token_budget=TEXT_TOKENS_PER_PICTURE * self.options.batch_for(job.header.card),
            on_rows=self._on_rows,
            rows_of=lambda _: self.rows.tolist(),
        ):
            yield unit.arrays[0]
