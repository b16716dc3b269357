"""What an encode will do: the planned source and every feature, checked before a store is touched."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from embedstore.encode.append import open_parent, plan_appended, refuse_known_rows
from embedstore.encode.features import plan_features
from embedstore.encode.plan import plan_source
from embedstore.sources import open_source
from embedstore.store import FeatureWriter, begun_headers, refuse_other_plan

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from embedstore.encode.features import FeatureJob
    from embedstore.encode.options import EncodeOptions
    from embedstore.encode.plan import PlannedSource


def plan_jobs(
    source: str,
    store: Path,
    image_encoders: Sequence[str],
    text_encoders: Sequence[str],
    *,
    options: EncodeOptions,
    append: str | Path | None = None,
) -> tuple[PlannedSource, list[FeatureJob]]:
    """Plan the source, load the encoders, decide the headers; nothing is written.

    Raises `MismatchError` where the store was planned otherwise or holds another feature of a name, and
    whatever sources, encoders and `--append` refuse.
    """
    parent = None if append is None else open_parent(append, store, options)
    planned = plan_source(open_source(source, **options.for_source), seed=options.seed, limit=options.limit)
    refuse_other_plan(store, planned.plan)
    if parent is None:
        jobs = plan_features(planned.plan, store, image_encoders, text_encoders, options)
    else:
        refuse_known_rows(planned, parent)
        jobs = plan_appended(
            planned.plan,
            parent,
            image_encoders,
            text_encoders,
            options=options,
            begun=begun_headers(store),
        )
    return planned, [_going_on(job, store) for job in jobs]


def _going_on(job: FeatureJob, store: Path) -> FeatureJob:
    """A feature that is begun goes on with what it has learnt; `MismatchError` where it is another one."""
    begun = begun_headers(store).get(job.header.name)
    if begun is None:
        return job
    if job.continues is None:
        header = job.header.model_copy(update={"calibration_sha256": begun.calibration_sha256})
        job = replace(job, header=header)
    FeatureWriter(store, job.header).refuse_other_header()
    # The same but for the last digits of what was measured, which are those of the first run.
    return replace(job, header=begun)
