"""Pictures decoded by processes, whose pixels come back through memory that is shared."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import shutil
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.encode.decoding import Decoders, Prepared, in_order, picture_for, pixel_bytes, prepare
from embedstore.errors import EmbedstoreError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

    from PIL.Image import Image

    from embedstore.encode.plan import PlannedSource
    from embedstore.encoders.base import ImageEncoder
    from embedstore.shapes import Float32Array
    from embedstore.sources.base import Picture

_SHARED = Path("/dev/shm")  # noqa: S108 - where Linux keeps shared memory
_THREADS = "leave out --decode processes: threads decode the same pixels"


class ProcessDecoders(Decoders):
    """Processes, each with an interpreter of its own: for more cores than one interpreter can keep busy.

    A worker is given the encoder's preparation without its model (`encoder.preparation`, a function that can
    be pickled) and writes pixels to its place in shared memory. Starting one takes seconds, as it must import
    what the preparation needs.
    """

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self._pool: ProcessPoolExecutor | None = None
        self._memory: SharedMemory | None = None

    def prepared(
        self,
        planned: PlannedSource,
        encoder: ImageEncoder,
        rows: Iterable[int],
        *,
        thumbnails: int,
        ahead: int,
    ) -> Iterator[Prepared]:
        """As of `Decoders`. Raises `UsageError` where the encoder or the pictures cannot be sent."""
        preparation = _sendable(getattr(encoder, "preparation", None), "pictures of this encoder")
        nbytes = pixel_bytes(encoder)
        places = self._places(self.depth(encoder, ahead), nbytes)
        self.__exit__()
        memory = self._memory = SharedMemory(create=True, size=places * nbytes)
        self._take(memory)
        pool = self._pool = ProcessPoolExecutor(
            self.count,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(preparation, memory.name, nbytes, thumbnails),
        )
        free: SimpleQueue[int] = SimpleQueue()
        for place in range(places):
            free.put(place)

        def begin(row: int) -> Future[_Answer]:
            id_, picture = picture_for(encoder, planned, row)
            return pool.submit(_work, row, id_, _sendable(picture, "pictures of this source"), free.get())

        def taken(answer: _Answer) -> Prepared:
            row = answer.taken(memory, nbytes)
            free.put(answer.place)
            return row

        answers = in_order(begin, rows, places, self._waiting)
        return _or_say_who_died(taken(answer) for answer in answers)

    def _places(self, wanted: int, nbytes: int) -> int:
        places = wanted
        if _SHARED.is_dir():
            places = min(wanted, shutil.disk_usage(_SHARED).free // 2 // nbytes)
        if places < 2 * self.count:
            raise _too_little(
                found=f"room for {places} pictures of {nbytes} bytes",
                allowed=f"{2 * self.count} or more, with as much left free",
            )
        return places

    def _take(self, memory: SharedMemory) -> None:
        """Have all of it now: a page that is not there when it is written ends the process that writes."""
        file = _SHARED / memory.name
        if not file.is_file() or not hasattr(os, "posix_fallocate"):
            return
        try:
            with file.open("r+b") as opened:
                os.posix_fallocate(opened.fileno(), 0, memory.size)
        except OSError as bad:
            self.__exit__()
            raise _too_little(found=bad.strerror, allowed=f"{memory.size} bytes") from None

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        if self._memory is not None:
            self._memory.close()
            self._memory.unlink()
            self._memory = None


def _too_little(*, found: object, allowed: str) -> UsageError:
    return UsageError(
        "too little shared memory for worker processes",
        where=_SHARED,
        found=found,
        allowed=allowed,
        todo=_THREADS,
    )


def _or_say_who_died(rows: Iterator[Prepared]) -> Iterator[Prepared]:
    try:
        yield from rows
    except BrokenProcessPool:
        raise EmbedstoreError(
            "a process that decodes pictures died",
            todo="run the same command again to go on; if it dies again, leave out --decode processes "
            "or give fewer --workers, should memory have run out",
        ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What a worker made of a row; its pixels lie in a place of the shared memory."""

    prepared: Prepared
    place: int
    shape: tuple[int, ...] | None

    def taken(self, memory: SharedMemory, nbytes: int) -> Prepared:
        """The row with pixels of its own."""
        if self.shape is None:
            return self.prepared
        view = np.ndarray(self.shape, np.float32, buffer=memory.buf, offset=self.place * nbytes)
        return replace(self.prepared, pixels=view.copy())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Worker:
    """What one worker process was given when it began."""

    to_pixels: Callable[[Image], Float32Array]
    memory: SharedMemory
    nbytes: int
    thumbnails: int


_worker: list[_Worker] = []


def _begin(preparation: bytes, memory: str, nbytes: int, thumbnails: int) -> None:
    # Ctrl-C comes to every process of a terminal; the parent decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)
    to_pixels = pickle.loads(preparation)  # noqa: S301 - bytes that our own parent made
    _worker.append(
        _Worker(to_pixels=to_pixels, memory=SharedMemory(memory), nbytes=nbytes, thumbnails=thumbnails)
    )


def _end_with_parent() -> None:
    """A parent that is killed cannot say so: its workers hold both ends of the queue they wait at.

    When all of them are gone, what they shared is removed by the tracker of `multiprocessing`.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(row: int, id_: str, picture: bytes, place: int) -> _Answer:
    (worker,) = _worker
    opened: Picture = pickle.loads(picture)  # noqa: S301 - bytes that our own parent made
    made = prepare(row, id_, opened, worker.to_pixels, worker.thumbnails)
    if made.pixels is None:
        return _Answer(prepared=made, place=place, shape=None)
    np.ndarray(made.pixels.shape, np.float32, buffer=worker.memory.buf, offset=place * worker.nbytes)[:] = (
        made.pixels
    )
    return _Answer(prepared=replace(made, pixels=None), place=place, shape=made.pixels.shape)


def _sendable(what: Any, name: str) -> bytes:
    with contextlib.suppress(TypeError, AttributeError, pickle.PicklingError):
        if what is not None:
            return pickle.dumps(what, protocol=pickle.HIGHEST_PROTOCOL)
    raise UsageError(f"{name} cannot be sent to other processes", todo=_THREADS)
