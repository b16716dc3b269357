"""What an encode would write and how long it would take, from a short probe; no store is touched."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.encode.calibrate import rows_to_learn_from
from embedstore.encode.decoding import open_decoders
from embedstore.encode.features import FeatureJob, ImageJob, TextJob, passes_of
from embedstore.encode.images import encode_image_units
from embedstore.encode.jobs import plan_jobs
from embedstore.encode.options import TEXT_TOKENS_PER_PICTURE, EncodeOptions
from embedstore.encode.texts import encode_text_units
from embedstore.encode.unit import Target
from embedstore.store import FeatureWriter, feature_nbytes
from embedstore.store.cache_folder import is_mirrored
from embedstore.store.calibration import learnt_shapes
from embedstore.store.coder import Coder
from embedstore.store.geometry import effective_policy
from embedstore.store.remote_plan import written_at
from embedstore.store.remote_writer import RemoteWriter
from embedstore.store.space import OFFERED, free_nbytes, nbytes_under

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from os import PathLike
    from pathlib import Path

    from embedstore.documents import FeatureHeader, Plan
    from embedstore.encode.plan import PlannedSource

PROBED_BATCHES = 3
COUNTED_TEXTS = 4096


@dataclass(frozen=True, kw_only=True)
class FeaturePrediction:
    """One feature: rows, bytes of the whole feature, rows a second, seconds for what is missing.

    `made_with`: the feature whose pass makes this one too, in whose seconds it is counted.
    `calibration_rows` are encoded first, once more than the others, for the policy to learn from; the seconds
    of that are counted in.
    """

    name: str
    rows: int
    missing: int
    nbytes: int
    rate: float
    seconds: float
    calibration_rows: int = 0
    made_with: str | None = None


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What an encode would do. Bytes are on disk, times in seconds on this machine as it is now.

    `free_bytes` of the store's disk, none for a URL.
    """

    features: tuple[FeaturePrediction, ...]
    missing_bytes: int
    seconds: float
    free_bytes: int | None
    advice: str | None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready prediction."""
        return asdict(self)


def dry_run_source(
    source: str,
    store: str | PathLike[str],
    *,
    image_encoders: Sequence[str] = (),
    text_encoders: Sequence[str] = (),
    options: EncodeOptions | None = None,
    append: str | Path | None = None,
) -> DryRun:
    """Predict bytes, time and rate of `encode_source` with the same arguments; the store is not touched."""
    options = options or EncodeOptions()
    with written_at(store, what="encode") as place:
        planned, jobs = plan_jobs(
            source, place, image_encoders, text_encoders, options=options, append=append
        )
        found = {
            p.name: p for together in passes_of(jobs) for p in _predict(together, planned, place, options)
        }
        predictions = [found[job.header.name] for job in jobs]
        free = None if is_mirrored(place) else free_nbytes(place)
    missing_bytes = sum(p.nbytes * p.missing // max(1, p.rows) for p in predictions)
    return DryRun(
        features=tuple(predictions),
        missing_bytes=missing_bytes,
        seconds=sum(p.seconds for p in predictions),
        free_bytes=free,
        advice=None if free is None else _advice(planned.plan, jobs, predictions, free),
    )


def _advice(
    plan: Plan, jobs: Sequence[FeatureJob], predictions: Sequence[FeaturePrediction], free: int
) -> str | None:
    """The policy of the least loss under which everything that is missing would fit the disk."""
    shares = [p.nbytes * p.missing / max(1, p.rows) for p in predictions]
    if sum(shares) <= free:
        return None
    for policy in OFFERED:
        factors = [
            1.0
            if (other := nbytes_under(plan, job.header, policy, tokens_per_row=1.0)) is None
            # Thumbnails and the raggedness of texts stay as they are: the ratio of the shards is enough.
            else min(1.0, other / feature_nbytes(job.header, tokens_per_row=1.0))
            for job in jobs
        ]
        if sum(s * f for s, f in zip(shares, factors, strict=True)) <= free:
            return f"the disk is too small for this; --policy {policy} would fit"
    return "the disk is too small for this at any policy; use another disk, --limit, or a smaller encoder"


def _predict(
    jobs: Sequence[FeatureJob], planned: PlannedSource, store: Path, options: EncodeOptions
) -> list[FeaturePrediction]:
    """The features of one pass: it is probed once."""
    writer = RemoteWriter if is_mirrored(store) else FeatureWriter
    missing = [set(writer(store, job.header).missing_units()) for job in jobs]
    sampled = [
        len(rows_to_learn_from(job, planned.plan, store)) if units else 0
        for job, units in zip(jobs, missing, strict=True)
    ]
    first = jobs[0]
    batch_size = options.batch_for(first.header.card)
    tokens, thumbnail = 0.0, 0.0
    if isinstance(first, ImageJob):
        rate, thumbnail = _probe_images(jobs, first, planned, options, batch_size)
    else:
        rate, tokens = _probe_texts(jobs, first, planned, batch_size)
    in_pass = _rows(first.header, set().union(*missing)) + sum(sampled)
    return [
        FeaturePrediction(
            name=job.header.name,
            rows=job.header.rows,
            missing=_rows(job.header, units),
            nbytes=feature_nbytes(job.header, tokens_per_row=tokens)
            + (round(thumbnail * job.header.rows) if job.header.thumbnails else 0),
            rate=rate,
            seconds=in_pass / rate if job is first else 0.0,
            calibration_rows=rows,
            made_with=None if job is first else first.header.name,
        )
        for job, units, rows in zip(jobs, missing, sampled, strict=True)
    ]


def _rows(header: FeatureHeader, units: Iterable[int]) -> int:
    return sum(len(header.unit_rows(unit)) for unit in units)


def _targets(jobs: Sequence[FeatureJob], rows: int) -> list[Target]:
    """The features cut to one unit of their first rows."""
    update = {"shard_rows": rows, "rows": rows}
    return [
        Target(header=job.header.model_copy(update=update), coder=_probe_coder(job), output=job.output)
        for job in jobs
    ]


def _probe_coder(job: FeatureJob) -> Coder:
    """As quick as the real one: how long coding takes does not depend on what was learnt."""
    header = job.header
    policy = effective_policy(header.policy, header.card)
    shapes = learnt_shapes(policy, header.card, tuple(a.name for a in header.arrays))
    return Coder.of(header, {name: np.ones(shape, np.float32) for name, shape in shapes.items()})


def _probe_images(
    jobs: Sequence[FeatureJob],
    first: ImageJob,
    planned: PlannedSource,
    options: EncodeOptions,
    batch_size: int,
) -> tuple[float, float]:
    """Pictures a second of the real pipeline over the first rows, after one batch to warm up.

    And the bytes of a thumbnail.
    """
    rows = min(first.header.rows, batch_size * (PROBED_BATCHES + 1))
    marks: list[float] = []
    counts: list[int] = []

    def on_rows(count: int) -> None:
        marks.append(time.perf_counter())
        counts.append(count)

    started = time.perf_counter()
    with open_decoders(options) as decoders:
        (unit,) = encode_image_units(
            planned,
            first.encoder,
            _targets(jobs, rows),
            [0],
            batch_size=batch_size,
            decoders=decoders,
            on_rows=on_rows,
        )
    kept = [t for t in unit.thumbnails or () if t is not None]
    thumbnail = sum(map(len, kept)) / max(1, len(kept))
    if len(marks) > 1:
        return sum(counts[1:]) / (marks[-1] - marks[0]), thumbnail
    return rows / (marks[-1] - started), thumbnail


def _probe_texts(
    jobs: Sequence[FeatureJob], first: TextJob, planned: PlannedSource, batch_size: int
) -> tuple[float, float]:
    """Texts a second over the first rows after a warm-up, and tokens a text over more of them."""
    encoder = first.encoder
    texts = [row["text"] for row in islice(planned.text_rows(), COUNTED_TEXTS)]
    ids, _ = encoder.prepare(texts)
    rows = min(len(texts), batch_size * PROBED_BATCHES)
    seconds = 0.0
    for _ in range(2):
        started = time.perf_counter()
        list(
            encode_text_units(
                lambda span: texts[span[0] : span[0] + len(span)],
                encoder,
                _targets(jobs, rows),
                [0],
                token_budget=TEXT_TOKENS_PER_PICTURE * batch_size,
                on_rows=lambda _: None,
            )
        )
        seconds = time.perf_counter() - started
    return rows / seconds, sum(map(len, ids)) / len(ids)
