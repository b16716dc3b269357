"""The engine of one machine: one process a device, each at the end of a pipe of its own.

Nothing is shared but the store, so whatever ends a worker at whatever moment harms nobody else. A worker
whose coordinator is gone ends at once, and so do the processes that decode for it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING

from embedstore.encode.engines import messages as say
from embedstore.encode.engines.crew import Crew, label_of, setup_of
from embedstore.encode.engines.devices import threads_for
from embedstore.encode.engines.worker import Worker
from embedstore.encode.options import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from embedstore.encode.engines.options import EngineOptions
    from embedstore.encode.progress import EncodeSummary, Progress
    from embedstore.encode.session import EncodeRequest

_PROGRAM = """import sys
handle, *sys.path = sys.argv[1:]
from embedstore.encode.engines.local import main
main(int(handle))"""
_LAST_SECONDS = 10.0
_STANDARD_ERROR = 2


def encode_on_devices(
    request: EncodeRequest,
    devices: Sequence[str],
    engine: EngineOptions,
    *,
    on_progress: Callable[[Progress], None],
    on_warning: Callable[[str], None],
) -> EncodeSummary:
    """Make the missing units by one process a device; they share the cores of this machine."""
    threads = threads_for(len(devices), asked=engine.threads, cores_there=usable_cores())
    options = replace(
        request.options, workers=request.options.workers or max(1, usable_cores() // len(devices))
    )
    request = replace(request, options=options)
    return Crew(
        request,
        LocalTransport(request, devices, threads=threads),
        part=engine.part,
        label=label_of(devices),
        on_progress=on_progress,
        on_warning=on_warning,
    ).run()


class LocalTransport:
    """Workers as processes of this machine, one for each of `devices`."""

    def __init__(self, request: EncodeRequest, devices: Sequence[str], *, threads: int) -> None:
        self.names = tuple(devices)
        self._request, self._threads = request, threads
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._pipes: dict[int, Connection] = {}

    def start(self, worker: int) -> None:
        """Start a process; it is in a group of its own, so that Ctrl-C comes to the coordinator alone."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._processes[worker] = subprocess.Popen(  # noqa: S603 - this very Python
                [sys.executable, "-c", _PROGRAM, str(theirs.fileno()), *sys.path],
                stdin=subprocess.DEVNULL,
                # Standard output is the command's own, and may be one JSON document.
                stdout=_STANDARD_ERROR,
                pass_fds=[theirs.fileno()],
                process_group=0,
            )
        self._pipes[worker] = Connection(ours.detach())
        options = replace(self._request.options, device=self.names[worker])
        self.send(worker, setup_of(replace(self._request, options=options), threads=self._threads))

    def send(self, worker: int, message: say.ToWorker) -> None:
        """Say something to a worker; one that is dead does not hear it."""
        with suppress(OSError):
            self._pipes[worker].send(message)

    def wait(self, seconds: float | None = None) -> list[tuple[int, say.FromWorker]]:
        """The next words of workers; nothing after so many `seconds`."""
        pipes = dict(self._pipes)
        ready = wait(list(pipes.values()), seconds)
        heard: list[tuple[int, say.FromWorker]] = []
        for worker, pipe in pipes.items():
            if pipe not in ready:
                continue
            try:
                message: say.FromWorker = pipe.recv()
            except (EOFError, OSError):
                message = say.Died(self._buried(worker))
            heard.append((worker, message))
        return heard

    def _buried(self, worker: int) -> str:
        """Why a process ended; it is removed from here."""
        self._pipes.pop(worker).close()
        process = self._processes.pop(worker)
        try:
            code = process.wait(_LAST_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def end(self, told: Collection[int]) -> None:
        """End all processes; none is left when this returns, also where it is interrupted."""
        try:
            for worker in self._pipes:
                if worker in told:
                    self.send(worker, say.Stop())
                else:
                    self._processes[worker].kill()
            deadline = time.monotonic() + _LAST_SECONDS
            while self._pipes and (left := deadline - time.monotonic()) > 0:
                self.wait(left)
        finally:
            for process in self._processes.values():
                process.kill()
            for process in self._processes.values():
                process.wait()
            for pipe in self._pipes.values():
                pipe.close()


def main(handle: int) -> None:
    """A worker process: it speaks through the socket `handle`, and ends when nobody is at the other end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = Connection(handle)
    sending = threading.Lock()

    def send(message: say.FromWorker) -> None:
        with sending:
            pipe.send(message)

    worker = Worker(send)
    threading.Thread(target=_listen, args=(pipe, worker), daemon=True).start()
    worker.run()
    # Whatever libraries still have to say to each other at the end: everything of ours is stored and told.
    os._exit(0)


def _listen(pipe: Connection, worker: Worker) -> None:
    while True:
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            os._exit(1)
        worker.deliver(message)
