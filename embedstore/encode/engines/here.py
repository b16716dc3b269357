"""The engine without workers: this process makes every unit, one after the other."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from embedstore.encode.decoding import open_decoders
from embedstore.encode.engines.storing import PassStoring
from embedstore.encode.engines.work import WorkOnPass
from embedstore.encode.progress import EncodeSummary
from embedstore.encode.session import prepare
from embedstore.store.remote.objects import parse_url
from embedstore.store.remote.plan import log_place, written_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from embedstore.encode.engines.options import Part
    from embedstore.encode.features import FeatureJob
    from embedstore.encode.progress import FeatureSummary, Progress
    from embedstore.encode.session import EncodeRequest, Session


def encode_here(
    request: EncodeRequest,
    *,
    part: Part,
    threads: int | None,
    on_progress: Callable[[Progress], None],
) -> EncodeSummary:
    """Make the missing units of `part`, feature by feature; a unit is stored while the next is computed."""
    with written_at(request.store, what="encode") as place, _computing(threads):
        session = prepare(request, place, on_progress=on_progress)
        done = [
            summary
            for together in session.passes
            for summary in _make(session, together, part=part, on_progress=on_progress)
        ]
    made = {summary.name: summary for summary in done}
    return EncodeSummary(
        store=parse_url(request.store) or Path(request.store),
        planned=session.is_new,
        features=tuple(made[name] for name in session.sampled),
        dropped=session.planned.source.dropped,
    )


def _make(
    session: Session,
    together: Sequence[FeatureJob],
    *,
    part: Part,
    on_progress: Callable[[Progress], None],
) -> list[FeatureSummary]:
    options = session.request.options
    work = WorkOnPass(
        [job.header for job in together],
        store=session.place,
        part=part,
        max_failed=options.max_failed,
        device=together[0].header.card.device_kind,
        sampled=session.sampled,
    )
    computed = 0

    def on_rows(count: int) -> None:
        nonlocal computed
        computed += count
        on_progress(work.progress(computed))

    def on_stored(unit: int, quarantined: int, truncated: int) -> None:
        work.stored(unit, quarantined=quarantined, truncated=truncated)

    work.start()
    on_rows(0)
    with PassStoring(work.features, on_stored=on_stored) as storing, open_decoders(options) as decoders:
        for made in session.encoded(together, work.units, decoders=decoders, on_rows=on_rows):
            storing.put(made)
    return work.finish(log=log_place(session.request.store))


@contextmanager
def _computing(threads: int | None) -> Iterator[None]:
    """So many threads of torch until the end; none: as it is."""
    if threads is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
