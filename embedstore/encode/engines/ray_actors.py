"""The engine on Ray: workers are actors, wherever the cluster has room; a dead one is made anew elsewhere."""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from embedstore.encode.engines import messages as say
from embedstore.encode.engines.crew import Crew, label_of, setup_of
from embedstore.encode.engines.devices import threads_for
from embedstore.encode.engines.worker import Worker
from embedstore.errors import EngineError, MissingExtraError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from embedstore.encode.engines.options import EngineOptions
    from embedstore.encode.progress import EncodeSummary, Progress
    from embedstore.encode.session import EncodeRequest

_LAST_SECONDS = 10.0
_MANY = 64
_OBJECT_BYTES = 100 << 20


def encode_on_ray(
    request: EncodeRequest,
    engine: EngineOptions,
    *,
    on_progress: Callable[[Progress], None],
    on_warning: Callable[[str], None],
) -> EncodeSummary:
    """Make the missing units by actors on Ray; a Ray that this starts ends with the run, whatever happens.

    Raises `MissingExtraError` where Ray is not installed, `EngineError` where no cluster can be had.
    """
    with _connected(engine) as ray:
        room = _room(ray, request.options.device, engine)
        free = ray.available_resources()
        if free.get("CPU", 0) < room.cpus or free.get("GPU", 0) < room.gpus:
            on_warning("the Ray cluster has no room for a worker now; they come when others leave")
        options = replace(
            request.options,
            device="cuda" if room.gpus else "cpu",
            workers=request.options.workers or max(1, room.cpus),
        )
        request = replace(request, options=options)
        transport = RayTransport(ray, request, room)
        return Crew(
            request,
            transport,
            part=engine.part,
            label=label_of(transport.names),
            on_progress=on_progress,
            on_warning=on_warning,
        ).run()


@dataclass(frozen=True, kw_only=True)
class _Room:
    """How many actors, what each of them needs of the cluster, and the threads that compute in it."""

    workers: int
    cpus: int
    gpus: int
    threads: int


def _room(ray: Any, device: str, engine: EngineOptions) -> _Room:
    """One actor a GPU, or one a machine, unless told otherwise; each small enough for some machine."""
    wanted = device.partition(":")[0]
    if wanted not in {"auto", "cpu", "cuda"}:
        raise UsageError("no such device on Ray", where="--device", found=device, allowed="auto, cpu, cuda")
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    with_gpus = [m for m in machines if wanted != "cpu" and m.get("GPU", 0) >= 1]
    if wanted == "cuda" and not with_gpus:
        raise UsageError("this Ray has no GPU", where="--device", found=device, todo="use --device cpu")
    if with_gpus:
        gpus = int(sum(m["GPU"] for m in with_gpus))
        cpus = max(1, min(int(m.get("CPU", 1) // m["GPU"]) for m in with_gpus))
        threads = threads_for(1, asked=engine.threads, cores_there=cpus)
        return _Room(workers=engine.ray_workers or gpus, cpus=cpus, gpus=1, threads=threads)
    with_cpus = [int(m["CPU"]) for m in machines if m.get("CPU", 0) >= 1] or [1]
    workers = engine.ray_workers or len(with_cpus)
    threads = threads_for(workers, asked=engine.threads, cores_there=sum(with_cpus))
    most = max(with_cpus)
    if engine.threads is None:
        threads = min(threads, most)
    return _Room(workers=workers, cpus=min(threads, most), gpus=0, threads=threads)


@contextmanager
def _connected(engine: EngineOptions) -> Iterator[Any]:
    """The module `ray`, connected: to what this process is connected to, a cluster, or one of its own."""
    try:
        import ray
    except ImportError:
        raise MissingExtraError(
            "--engine ray needs the package 'ray'", todo="pip install 'embedstore[ray]'"
        ) from None
    if ray.is_initialized():
        yield ray
        return
    address = engine.ray_address or os.environ.get("RAY_ADDRESS") or "local"
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _connect(ray, address, engine)
        _restore(handler)
        yield ray
    finally:
        ray.shutdown()
        _restore(handler)


def _connect(ray: Any, address: str, engine: EngineOptions) -> None:
    more: dict[str, Any] = {}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Units do not go through Ray, so its memory may be small; and nobody else is to reach it.
        more = {
            "include_dashboard": False,
            "object_store_memory": _OBJECT_BYTES,
            "_node_ip_address": "127.0.0.1",
        }
        if engine.ray_workers:
            # So many may be more than this machine has cores; it is the user's wish.
            threads = threads_for(engine.ray_workers, asked=engine.threads, cores_there=os.cpu_count() or 1)
            more["num_cpus"] = max(os.cpu_count() or 1, engine.ray_workers * threads)
    try:
        _look_for(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **more)
    except (OSError, RuntimeError, ValueError) as bad:
        raise EngineError(
            "Ray cannot be reached" if address != "local" else "Ray cannot be started",
            where=address,
            found=str(bad).strip().splitlines()[0] if str(bad).strip() else type(bad).__name__,
            todo="give the address of a running head with --ray-address, e.g. auto or HOST:6379; where the "
            "cluster asks for a token, set RAY_AUTH_MODE=token",
        ) from bad


def _look_for(address: str) -> None:
    """Raise at once where nobody listens; Ray itself tries for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_LAST_SECONDS):
            pass


def _restore(handler: Any) -> None:
    """Ray takes the handler of SIGTERM for itself; an encode must hear it to say what remains."""
    if threading.current_thread() is threading.main_thread() and handler is not None:
        signal.signal(signal.SIGTERM, handler)


class RayWorker:
    """An actor: `run` works, `deliver` and `heard` carry messages meanwhile, each in a thread of its own."""

    def __init__(self) -> None:
        self._said: SimpleQueue[say.FromWorker] = SimpleQueue()
        self._worker = Worker(self._said.put)

    def run(self) -> None:
        """Work until the end, which is the last thing that is said."""
        self._worker.run()
        self._said.put(say.Died("its actor ended"))

    def deliver(self, message: say.ToWorker) -> None:
        """What the coordinator says."""
        self._worker.deliver(message)

    def heard(self) -> list[say.FromWorker]:
        """What the worker has said since the last call; waits for the first word."""
        said = [self._said.get()]
        while not self._said.empty() and len(said) < _MANY:
            said.append(self._said.get())
        return said


class RayTransport:
    """Actors, and for each the call that waits for its next words, or for its end."""

    def __init__(self, ray: Any, request: EncodeRequest, room: _Room) -> None:
        self.names = (request.options.device,) * room.workers
        self._ray, self._request, self._threads = ray, request, room.threads
        self._made = ray.remote(RayWorker).options(
            num_cpus=room.cpus, num_gpus=room.gpus, max_restarts=0, max_task_retries=0, max_concurrency=4
        )
        self._actors: dict[int, Any] = {}
        self._waiting: dict[Any, int] = {}
        self._ends: dict[int, Any] = {}

    def start(self, worker: int) -> None:
        """Ask for an actor; it may come at once, or when the cluster has room for it."""
        actor = self._made.remote()
        self._actors[worker] = actor
        self._ends[worker] = actor.run.remote()
        self._waiting[actor.heard.remote()] = worker
        self.send(worker, setup_of(self._request, threads=self._threads))

    def send(self, worker: int, message: say.ToWorker) -> None:
        """Say something to a worker; one that is dead does not hear it."""
        if worker in self._actors:
            self._actors[worker].deliver.remote(message)

    def wait(self) -> list[tuple[int, say.FromWorker]]:
        """What workers have said since, after the first word; one that is gone says so last."""
        ready, _ = self._ray.wait(list(self._waiting))
        heard: list[tuple[int, say.FromWorker]] = []
        for call in ready:
            worker = self._waiting.pop(call)
            try:
                said: list[say.FromWorker] = self._ray.get(call)
            except self._ray.exceptions.RayError as bad:
                said = [say.Died(_reason(bad))]
            heard += [(worker, message) for message in said]
            if isinstance(said[-1], say.Died):
                self._forget(worker)
            else:
                self._waiting[self._actors[worker].heard.remote()] = worker
        return heard

    def _forget(self, worker: int) -> None:
        self._ends.pop(worker)
        self._ray.kill(self._actors.pop(worker))

    def end(self, told: Collection[int]) -> None:
        """End all actors, also where this is interrupted."""
        try:
            last = [self._ends[worker] for worker in told if worker in self._ends]
            for worker in told:
                self.send(worker, say.Stop())
            if last:
                self._ray.wait(last, num_returns=len(last), timeout=_LAST_SECONDS)
        finally:
            for actor in self._actors.values():
                with suppress(self._ray.exceptions.RayError):
                    self._ray.kill(actor)


def _reason(bad: Exception) -> str:
    """The first line of what Ray says that tells something."""
    lines = [line.strip() for line in str(bad).splitlines() if line.strip()]
    told = next((line for line in lines if "SYSTEM_ERROR" in line or "exit" in line.lower()), None)
    return told or (lines[0] if lines else type(bad).__name__)
