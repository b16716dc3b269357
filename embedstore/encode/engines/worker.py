"""A worker: a process that makes the units it is given. It knows nothing of how messages travel."""

from __future__ import annotations

import os
import socket
import sys
import threading
import traceback
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

from embedstore.encode.engines import messages as say
from embedstore.errors import EmbedstoreError, RemoteError, StoreNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from embedstore.encode.decoding import Decoders
    from embedstore.encode.engines.work import WorkOnFeature
    from embedstore.encode.session import Session

_M = TypeVar("_M", say.Setup, say.Prepare, say.Lease)


class _Stopped(Exception):  # noqa: N818 - the coordinator's wish, not a failure
    """Leave what is in hand."""


class Worker:
    """`run` works in one thread; `deliver` is called from another with what the coordinator says.

    `send` takes what the coordinator is told; it is called by several threads.
    """

    def __init__(self, send: Callable[[say.FromWorker], None]) -> None:
        self._send = send
        self._inbox: SimpleQueue[say.ToWorker] = SimpleQueue()
        self._stopping = threading.Event()

    def deliver(self, message: say.ToWorker) -> None:
        """A message from the coordinator."""
        if isinstance(message, say.Stop):
            self._stopping.set()
        self._inbox.put(message)

    def run(self) -> None:
        """Work until the coordinator says stop; what goes wrong is told to it, and nothing is raised."""
        try:
            self._work(self._expect(say.Setup))
        except _Stopped:
            return
        except Exception as bad:  # noqa: BLE001 - whatever it is, the coordinator decides
            if os.environ.get("EMBEDSTORE_DEBUG"):
                traceback.print_exc()
            if self._stopping.is_set():
                return
            # A place that cannot be reached for a while, or an error of no certain kind, may be of this
            # worker alone.
            everywhere = isinstance(bad, EmbedstoreError) and type(bad) not in {EmbedstoreError, RemoteError}
            self._send(say.Failed(_portable(bad), everywhere))

    def _tell(self, progress: say.Rows | say.Told) -> None:
        """Also the moment, between two batches, at which a worker stops that is told to."""
        if self._stopping.is_set():
            raise _Stopped
        self._send(progress)

    def _receive(self) -> say.ToWorker:
        message = self._inbox.get()
        if isinstance(message, say.Stop):
            raise _Stopped
        return message

    def _expect(self, kind: type[_M]) -> _M:
        message = self._receive()
        if not isinstance(message, kind):
            raise TypeError(f"a worker was told {message}, not {kind.__name__}")
        return message

    def _work(self, setup: say.Setup) -> None:
        if Path(setup.folder).is_dir():
            os.chdir(setup.folder)
        sys.path += [p for p in setup.paths if p not in sys.path]
        import torch

        from embedstore.encode.decoding import open_decoders
        from embedstore.encode.session import prepare
        from embedstore.store.remote.plan import written_at

        torch.set_num_threads(setup.threads)
        self._send(say.Ready(os.getpid(), socket.gethostname()))
        request = setup.request
        passes = self._expect(say.Prepare).passes
        with written_at(request.store, what="encode") as place:
            if passes is not None:
                _refuse_unseen(place, request.store)
            session = prepare(request, place, on_progress=lambda at: self._tell(say.Told(at)))
            if passes is not None:
                session = session.grouped(passes)
            self._send(
                say.Prepared(
                    passes=tuple(tuple(job.header for job in jobs) for jobs in session.passes),
                    sampled=dict(session.sampled),
                    is_new=session.is_new,
                    dropped=dict(session.planned.source.dropped),
                )
            )
            with open_decoders(request.options) as decoders:
                self._make_units(session, decoders)

    def _make_units(self, session: Session, decoders: Decoders) -> None:
        from embedstore.encode.engines.work import WorkOnFeature

        begun: dict[int, list[WorkOnFeature]] = {}
        while True:
            self._send(say.Ask())
            lease = self._expect(say.Lease)
            if lease.of_pass not in begun:
                jobs = session.passes[lease.of_pass]
                begun[lease.of_pass] = [WorkOnFeature.begin(session.place, job.header) for job in jobs]
            self._stream(session, lease, begun[lease.of_pass], decoders)

    def _stream(
        self, session: Session, lease: say.Lease, features: list[WorkOnFeature], decoders: Decoders
    ) -> None:
        """Make a unit, and the next ones of the same pass as long as there are any; store meanwhile."""
        from embedstore.encode.engines.storing import PassStoring

        of_pass = lease.of_pass

        def on_stored(unit: int, quarantined: int, truncated: int) -> None:
            self._send(say.Stored(of_pass=of_pass, unit=unit, quarantined=quarantined, truncated=truncated))

        def on_rows(count: int) -> None:
            self._tell(say.Rows(of_pass, count))

        jobs, units = session.passes[of_pass], self._units(lease)
        with PassStoring(features, on_stored=on_stored) as storing:
            for made in session.encoded(jobs, units, decoders=decoders, on_rows=on_rows):
                storing.put(made)

    def _units(self, lease: say.Lease) -> Iterator[int]:
        yield lease.unit
        while not lease.alone:
            self._send(say.More(lease.of_pass))
            answer = self._receive()
            if not isinstance(answer, say.Lease):
                return
            yield answer.unit


def _refuse_unseen(place: Path, store: str) -> None:
    """`StoreNotFoundError` where the store that another worker has planned is not seen from here."""
    from embedstore.store import layout

    if not layout.plan(place).is_file():
        raise StoreNotFoundError(
            f"the store is not seen from {socket.gethostname()}",
            where=store,
            todo="give a folder that all machines share, or a URL",
        )


def _portable(bad: Exception) -> Exception:
    """The error itself where it is one of ours; of others the words, since they may not travel."""
    if isinstance(bad, EmbedstoreError):
        return bad
    return RuntimeError(f"{type(bad).__name__}: {bad}")
