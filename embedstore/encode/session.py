"""An encode in one process: planned and calibrated, with its encoders loaded, ready to make any unit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from embedstore.encode.calibrate import calibrated, rows_to_learn_from
from embedstore.encode.features import FeatureJob, ImageJob, passes_of
from embedstore.encode.images import encode_image_units
from embedstore.encode.jobs import plan_jobs
from embedstore.encode.options import TEXT_TOKENS_PER_PICTURE, EncodeOptions
from embedstore.encode.progress import log_event
from embedstore.encode.texts import encode_text_units
from embedstore.encode.unit import Target
from embedstore.encoders import remember
from embedstore.encoders.views import ViewedImages
from embedstore.store import layout, open_store
from embedstore.store.coding.coder import Coder
from embedstore.store.remote.plan import log_place, publish_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from embedstore.encode.decoding import Decoders
    from embedstore.encode.plan import PlannedSource
    from embedstore.encode.progress import Progress
    from embedstore.encode.unit import EncodedUnit


@dataclass(frozen=True, kw_only=True)
class EncodeRequest:
    """The arguments of one `encode_source`, as any process of any machine may be given them."""

    source: str
    store: str
    image_encoders: tuple[str, ...] = ()
    text_encoders: tuple[str, ...] = ()
    options: EncodeOptions = field(default_factory=EncodeOptions)
    append: str | None = None


@dataclass(frozen=True, kw_only=True)
class Session:
    """What a process needs to make units: the store exists, every header is final.

    `passes`: the jobs that one forward pass makes together. `sampled`: feature to the rows that were encoded
    for its policy to learn from, in the order of the command.
    """

    request: EncodeRequest
    place: Path
    planned: PlannedSource
    passes: tuple[tuple[FeatureJob, ...], ...]
    sampled: Mapping[str, int]
    is_new: bool

    @property
    def names(self) -> tuple[tuple[str, ...], ...]:
        """The features of each pass."""
        return tuple(tuple(job.header.name for job in together) for together in self.passes)

    def grouped(self, names: tuple[tuple[str, ...], ...]) -> Session:
        """The same with the passes of another process, which may have found fewer features begun."""
        if names == self.names:
            return self
        jobs = {job.header.name: job for together in self.passes for job in together}
        return replace(self, passes=tuple(_together([jobs[name] for name in some]) for some in names))

    def encoded(
        self,
        together: Sequence[FeatureJob],
        units: Iterable[int],
        *,
        decoders: Decoders,
        on_rows: Callable[[int], None],
    ) -> Iterator[EncodedUnit]:
        """Encode `units` of the jobs of one pass in their order, asking for each a little ahead of its turn.

        The headers must be committed. `on_rows` is called with the rows of every batch.
        """
        options, job = self.request.options, together[0]
        targets = [
            Target(
                header=each.header,
                coder=Coder.read(layout.feature(self.place, each.header.name), each.header),
                output=each.output,
            )
            for each in together
        ]
        batch_size = options.batch_for(job.header.card)
        if isinstance(job, ImageJob):
            return encode_image_units(
                self.planned,
                job.encoder,
                targets,
                units,
                batch_size=batch_size,
                decoders=decoders,
                on_rows=on_rows,
            )
        column = open_store(self.place).texts(["text"])["text"]
        return encode_text_units(
            lambda rows: column.slice(rows[0], len(rows)).to_pylist(),
            job.encoder,
            targets,
            units,
            token_budget=TEXT_TOKENS_PER_PICTURE * batch_size,
            on_rows=on_rows,
        )


def _together(jobs: Sequence[FeatureJob]) -> tuple[FeatureJob, ...]:
    """Jobs of one encoder as a pass of their own; of views only those that they are."""
    made: list[FeatureJob] = []
    part: ViewedImages | None = None
    for place, job in enumerate(jobs):
        if isinstance(job, ImageJob) and isinstance(job.encoder, ViewedImages):
            part = part or job.encoder.only([each.output for each in jobs])
            made.append(replace(job, encoder=part, output=place))
        else:
            made.append(job)
    return tuple(made)


def prepare(request: EncodeRequest, place: Path, *, on_progress: Callable[[Progress], None]) -> Session:
    """Plan the source, load the encoders, make the store, learn what policies must learn; no unit is made.

    `place`: the folder in which the store is written here. Does what is not done yet, so any number of
    processes may call it. Raises what `encode_source` does before its first unit.
    """
    options, log = request.options, log_place(request.store)
    # A mistake in a spec, a name or a policy must leave no store that a corrected command would not fit.
    planned, jobs = plan_jobs(
        request.source,
        place,
        request.image_encoders,
        request.text_encoders,
        options=options,
        append=request.append,
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
    ready = [calibrated(job, planned, place, options, on_progress, log=log) for job in jobs]
    return Session(
        request=request,
        place=place,
        planned=planned,
        passes=tuple(tuple(together) for together in passes_of(job for job, _ in ready)),
        sampled={job.header.name: sampled for job, sampled in ready},
        is_new=is_new,
    )
