"""What an encode would write and how long it would take, from a short probe; no store is touched."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from embedstore.encode.calibrate import rows_to_learn_from
from embedstore.encode.features import FeatureJob, ImageJob, passes_of
from embedstore.encode.jobs import plan_jobs
from embedstore.encode.options import EncodeOptions
from embedstore.encode.probe import Probe, count_tokens, probe_images, probe_texts
from embedstore.store import FeatureWriter, feature_nbytes
from embedstore.store.journal import read_manifest
from embedstore.store.remote.cache_folder import is_mirrored
from embedstore.store.remote.plan import written_at
from embedstore.store.remote.writer import RemoteWriter
from embedstore.store.sizes import counted_nbytes, unit_nbytes
from embedstore.store.space import OFFERED, free_nbytes, nbytes_under

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from os import PathLike
    from pathlib import Path

    from embedstore.documents import FeatureHeader, Plan
    from embedstore.encode.plan import PlannedSource
    from embedstore.shapes import IntArray


@dataclass(frozen=True, kw_only=True)
class FeaturePrediction:
    """One feature: rows, bytes of the whole feature, rows a second, seconds for what is missing.

    `missing_nbytes` of the bytes are to be written; `exact` where they follow from what is known, and not
    from a sample of the texts or thumbnails. The rate is 0 where nothing is missing.
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
    missing_nbytes: int = 0
    exact: bool = False


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What an encode would do. Bytes are on disk, times in seconds on this machine as it is now.

    `seconds` of the whole call, `setup_seconds` of them until the source is planned and the encoders are
    loaded. `free_bytes` of the store's disk, none for a URL.
    """

    features: tuple[FeaturePrediction, ...]
    missing_bytes: int
    seconds: float
    free_bytes: int | None
    advice: str | None
    setup_seconds: float = 0.0

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
    tokenize_all: bool = False,
) -> DryRun:
    """Predict bytes, time and rate of `encode_source` with the same arguments; the store is not touched.

    A sample goes through the real pipeline for some seconds. `tokenize_all`: count the tokens of every text,
    not of the first ones only; the bytes of text features are then exact.
    """
    options = options or EncodeOptions()
    began = time.perf_counter()
    with written_at(store, what="encode") as place:
        planned, jobs = plan_jobs(
            source, place, image_encoders, text_encoders, options=options, append=append
        )
        setup = time.perf_counter() - began
        found = {
            p.name: p
            for together in passes_of(jobs)
            for p in _predict(together, planned, place, options, tokenize_all=tokenize_all)
        }
        predictions = [found[job.header.name] for job in jobs]
        free = None if is_mirrored(place) else free_nbytes(place)
    return DryRun(
        features=tuple(predictions),
        missing_bytes=sum(p.missing_nbytes for p in predictions),
        seconds=setup + sum(p.seconds for p in predictions),
        setup_seconds=setup,
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
    jobs: Sequence[FeatureJob],
    planned: PlannedSource,
    store: Path,
    options: EncodeOptions,
    *,
    tokenize_all: bool,
) -> list[FeaturePrediction]:
    """The features of one pass: it is probed once."""
    writer = RemoteWriter if is_mirrored(store) else FeatureWriter
    missing = [writer(store, job.header).missing_units() for job in jobs]
    sampled = [
        len(rows_to_learn_from(job, planned.plan, store)) if units else 0
        for job, units in zip(jobs, missing, strict=True)
    ]
    first = jobs[0]
    in_pass = _rows(first.header, set().union(*missing)) + sum(sampled)
    probe, count = Probe(rate=0.0, startup=0.0), None
    if in_pass and isinstance(first, ImageJob):
        probe = probe_images(jobs, first, planned, options, store)
    elif in_pass and not isinstance(first, ImageJob):
        probe = probe_texts(jobs, first, planned, options, store)
        count = count_tokens(
            planned, first.encoder, shard_rows=first.header.shard_rows, everything=tokenize_all
        )
    made = []
    for job, units, rows in zip(jobs, missing, sampled, strict=True):
        header = job.header
        whole, left = (_nbytes(header, some, probe, count) for some in (range(header.units), units))
        standing = None if units else read_manifest(writer(store, header).path)
        seconds = probe.startup + in_pass / probe.rate if job is first and in_pass else 0.0
        made.append(
            FeaturePrediction(
                name=header.name,
                rows=header.rows,
                missing=_rows(header, units),
                nbytes=whole if standing is None else standing.nbytes,
                missing_nbytes=left,
                exact=standing is not None or _is_exact(header, count),
                rate=probe.rate,
                seconds=seconds,
                calibration_rows=rows,
                made_with=None if job is first else first.header.name,
            )
        )
    return made


def _nbytes(
    header: FeatureHeader, units: Sequence[int], probe: Probe, count: tuple[float, IntArray | None] | None
) -> int:
    """Bytes of some units, thumbnails among them."""
    thumbnails = round(probe.thumbnail * _rows(header, units)) if header.thumbnails else 0
    mean, per_unit = count or (0.0, None)
    if per_unit is not None:
        return sum(counted_nbytes(header, unit, tokens=int(per_unit[unit])) for unit in units)
    return thumbnails + sum(unit_nbytes(header, unit, tokens_per_row=mean) for unit in units)


def _is_exact(header: FeatureHeader, count: tuple[float, IntArray | None] | None) -> bool:
    if header.table == "images":
        return not header.thumbnails
    return count is not None and count[1] is not None


def _rows(header: FeatureHeader, units: Iterable[int]) -> int:
    return sum(len(header.unit_rows(unit)) for unit in units)
