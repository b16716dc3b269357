"""The coordinator: workers come, ask for units, and may die; it holds the queue and no encoder."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from embedstore.encode.engines import messages as say
from embedstore.encode.engines.queue import MOST_DEATHS, UnitOf, UnitQueue
from embedstore.encode.engines.work import WorkOnPass
from embedstore.encode.progress import EncodeSummary, log_event
from embedstore.errors import EngineError
from embedstore.store import open_store
from embedstore.store.remote.objects import parse_url
from embedstore.store.remote.plan import log_place, written_at

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from embedstore.encode.engines.options import Part
    from embedstore.encode.progress import Progress
    from embedstore.encode.session import EncodeRequest


class Transport(Protocol):
    """How workers are started and spoken to. Workers are numbered from 0; a number may be started again."""

    @property
    def names(self) -> Sequence[str]:
        """What a person calls each worker."""

    def start(self, worker: int) -> None:
        """Start a worker, which is given its setup at once."""

    def send(self, worker: int, message: say.ToWorker) -> None:
        """Say something to a worker; one that is dead does not hear it."""

    def wait(self) -> list[tuple[int, say.FromWorker]]:
        """What workers have said since, after the first word; `Died` comes last and once for every start."""

    def end(self, told: Collection[int]) -> None:
        """End every worker; those `told` to stop have some seconds to leave what they have in hand."""


@dataclass
class _Seat:
    """What is known of one worker. `in_a_row`: its deaths without a unit stored in between."""

    state: str = "starting"
    in_a_row: int = 0
    begun: dict[int, int] = field(default_factory=dict)
    error: Exception | None = None


class Crew:
    """One encode made by the workers of a transport.

    `label`: what computes, for a person. `on_warning` is told of every death.
    """

    def __init__(
        self,
        request: EncodeRequest,
        transport: Transport,
        *,
        part: Part,
        label: str,
        on_progress: Callable[[Progress], None],
        on_warning: Callable[[str], None],
    ) -> None:
        self._request, self._transport, self._part, self._label = request, transport, part, label
        self._on_progress, self._on_warning = on_progress, on_warning
        self._log = log_place(request.store)
        self._seats = [_Seat() for _ in transport.names]
        self._queue = UnitQueue(())
        self._works: list[WorkOnPass] = []
        self._started: set[int] = set()
        self._prepared: say.Prepared | None = None
        self._place = Path()
        self._lost = 0

    def run(self) -> EncodeSummary:
        """Make every missing unit of the part; `EngineError` where workers keep dying."""
        with ExitStack() as open_places:
            try:
                for worker in range(len(self._seats)):
                    self._start(worker)
                while self._prepared is None or not self._queue.finished:
                    for worker, message in self._transport.wait():
                        self._hear(worker, message, open_places)
            finally:
                # The others have nothing yet, and would not hear it before they have loaded everything.
                self._transport.end([w for w, s in enumerate(self._seats) if s.state in {"idle", "busy"}])
            done = {f.name: f for work in self._works for f in work.finish(log=self._log)}
        return EncodeSummary(
            store=parse_url(self._request.store) or Path(self._request.store),
            planned=self._prepared.is_new,
            features=tuple(done[name] for name in self._prepared.sampled),
            dropped=self._prepared.dropped,
            workers=len(self._seats),
            workers_lost=self._lost,
        )

    def _start(self, worker: int) -> None:
        self._seats[worker].state = "starting"
        self._seats[worker].error = None
        self._queue.join(worker)
        self._transport.start(worker)

    def _hear(self, worker: int, message: say.FromWorker, open_places: ExitStack) -> None:
        seat = self._seats[worker]
        match message:
            case say.Ready(process, host):
                seat.state = "ready"
                name = self._transport.names[worker]
                log_event(self._log, "worker", worker=worker, name=name, process=process, host=host)
                self._prepare_next()
            case say.Prepared():
                seat.state = "busy"
                if self._prepared is None:
                    self._begin(message, open_places)
                    self._prepare_next()
            case say.Failed(error, everywhere):
                if everywhere:
                    raise error
                seat.error = error
            case say.Died(reason):
                self._bury(worker, reason if seat.error is None else str(seat.error))
            case _:
                self._hear_of_work(worker, message)

    def _hear_of_work(self, worker: int, message: say.FromWorker) -> None:
        seat = self._seats[worker]
        match message:
            case say.Ask():
                seat.state = "idle"
                self._serve()
            case say.More(of_pass):
                self._transport.send(worker, self._queue.more(worker, of_pass) or say.NoMore())
            case say.Rows(of_pass, count):
                seat.begun[of_pass] = seat.begun.get(of_pass, 0) + count
                self._show(of_pass)
            case say.Stored():
                self._store(worker, message)
            case say.Told(progress):
                self._on_progress(progress)

    def _prepare_next(self) -> None:
        """One worker makes the store; when it has, all others follow at once."""
        if self._prepared is None and any(s.state in {"preparing", "busy"} for s in self._seats):
            return
        for worker, seat in enumerate(self._seats):
            if seat.state == "ready":
                seat.state = "preparing"
                if self._prepared is None:
                    self._transport.send(worker, say.Prepare())
                    return
                names = tuple(tuple(h.name for h in headers) for headers in self._prepared.passes)
                self._transport.send(worker, say.Prepare(names))

    def _begin(self, prepared: say.Prepared, open_places: ExitStack) -> None:
        self._prepared = prepared
        self._place = open_places.enter_context(written_at(self._request.store, what="encode"))
        self._works = [
            WorkOnPass(
                headers,
                store=self._place,
                part=self._part,
                max_failed=self._request.options.max_failed,
                device=self._label,
                sampled=prepared.sampled,
            )
            for headers in prepared.passes
        ]
        self._queue = UnitQueue(UnitOf(k, u) for k, work in enumerate(self._works) for u in work.units)
        for worker, seat in enumerate(self._seats):
            if seat.state != "gone":
                self._queue.join(worker)
        for k in range(len(self._works)):
            self._show(k)

    def _serve(self) -> None:
        """Give units to workers that have none."""
        for worker, seat in enumerate(self._seats):
            if seat.state == "idle" and (lease := self._queue.take(worker)) is not None:
                seat.state = "busy"
                if lease.of_pass not in self._started:
                    self._started.add(lease.of_pass)
                    self._works[lease.of_pass].start()
                self._transport.send(worker, lease)

    def _store(self, worker: int, message: say.Stored) -> None:
        if not self._queue.stored(worker, UnitOf(message.of_pass, message.unit)):
            return
        seat, work = self._seats[worker], self._works[message.of_pass]
        seat.in_a_row = 0
        rows = len(work.header.unit_rows(message.unit))
        seat.begun[message.of_pass] = max(0, seat.begun.get(message.of_pass, 0) - rows)
        work.stored(message.unit, quarantined=message.quarantined, truncated=message.truncated)
        self._show(message.of_pass)

    def _show(self, of_pass: int) -> None:
        work = self._works[of_pass]
        begun = sum(seat.begun.get(of_pass, 0) for seat in self._seats)
        self._on_progress(work.progress(work.fresh + begun))

    def _bury(self, worker: int, reason: str) -> None:
        """Give the units of a dead worker to others, and start another one in its place."""
        seat, name = self._seats[worker], self._transport.names[worker]
        lost = self._queue.died(worker)
        seat.begun.clear()
        seat.in_a_row += 1
        self._lost += 1
        deadly = self._queue.deadly
        if deadly is not None:
            raise self._deadly(deadly, reason)
        given_up = seat.in_a_row >= MOST_DEATHS
        seat.state = "gone" if given_up else "starting"
        log_event(self._log, "worker lost", worker=worker, name=name, reason=reason, units=len(lost))
        then = "it is given up" if given_up else "another one takes its place"
        units = f"{len(lost)} units are made again by others" if lost else "it had no unit in hand"
        self._on_warning(f"worker {worker} ({name}) ended: {reason}; {units}; {then}")
        if all(s.state == "gone" for s in self._seats):
            raise EngineError(
                "every worker ended again and again",
                found=reason,
                todo="see what ended them (memory, device, disk); what is finished stays, and the same "
                "command goes on",
            )
        if not given_up:
            self._start(worker)
        self._prepare_next()
        self._serve()

    def _deadly(self, deadly: UnitOf, reason: str) -> EngineError:
        header = self._works[deadly.of_pass].header
        rows = header.unit_rows(deadly.unit)
        opened = open_store(self._place)
        table = opened.images(["id"]) if header.table == "images" else opened.texts(["id"])
        ids = table["id"].slice(rows.start, len(rows)).to_pylist()
        return EngineError(
            f"a unit ended {MOST_DEATHS} workers",
            where=f"feature {header.name!r}, unit {deadly.unit}: rows {rows.start} to {rows.stop - 1}, "
            f"ids {ids[0]!r} to {ids[-1]!r}",
            found=reason,
            todo="look at these rows of the source, and at memory and device; what is finished stays, and "
            "the same command goes on",
        )


def setup_of(request: EncodeRequest, *, threads: int) -> say.Setup:
    """What a worker of this process is told first."""
    return say.Setup(request=request, threads=threads, paths=tuple(sys.path), folder=str(Path.cwd()))


def label_of(names: Sequence[str]) -> str:
    """Devices for a person: `cuda:0`, `2 × cpu`, `4 × cuda`."""
    kinds = sorted({name.partition(":")[0] for name in names})
    return names[0] if len(names) == 1 else f"{len(names)} × {' and '.join(kinds)}"
