"""Files that exist whole or not at all: temporary name, flush, then one rename or link."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import TYPE_CHECKING

from embedstore.errors import DiskFullError, StoreError
from embedstore.store import layout
from embedstore.store.failpoints import effect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from embedstore.shapes import ByteArray

MOST_PIECES = 1024
# A checksum of 4 bytes, and what aligns the chunk behind it to 64.
_GAP_BYTES = 4 + 63
_SCRATCH = memoryview(bytearray(_GAP_BYTES))
_PART_BYTES = 4 << 20
_FLUSHERS = 8
_FULL = {errno.ENOSPC, errno.EDQUOT}
_LOCKED = {errno.EACCES, errno.EROFS, errno.EPERM}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def write_pieces(handle: int, pieces: Sequence[ByteArray | bytes]) -> None:
    """Write buffers one after the other by vector writes, without joining them; short writes go on."""
    waiting = [memoryview(p).cast("B") for p in pieces if len(p)]  # type: ignore[arg-type]  # arrays are buffers
    first = 0
    while first < len(waiting):
        done = os.writev(handle, waiting[first : first + MOST_PIECES])
        while first < len(waiting) and done >= len(waiting[first]):
            done -= len(waiting[first])
            first += 1
        if done:
            waiting[first] = waiting[first][done:]


def write_stream(handle: int, pieces: Iterable[ByteArray | bytes]) -> None:
    """Write pieces as they come, some MB a call; the disk begins with each part at once."""
    begun, waiting, size = 0, [], 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= _PART_BYTES:
            write_pieces(handle, waiting)
            _start_writing(handle, begun, size)
            begun, waiting, size = begun + size, [], 0
    write_pieces(handle, waiting)
    _start_writing(handle, begun, size)


def _start_writing(handle: int, first: int, size: int) -> None:
    """Let the kernel write these bytes now, in the background: the later flush finds less to do."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle, first, size, os.POSIX_FADV_DONTNEED)


def advise(handle: int, first: int, stop: int) -> None:
    """Ask the kernel to read bytes `[first, stop)` soon."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle, first, stop - first, os.POSIX_FADV_WILLNEED)


def in_memory(handle: int, place: int) -> bool:
    """Whether one byte can be read without waiting for the disk; False where the system does not tell."""
    try:
        return os.preadv(handle, [bytearray(1)], place, os.RWF_NOWAIT) == 1
    except (OSError, AttributeError):
        return False


def read_pieces(handle: int, pieces: Sequence[tuple[int, ByteArray | memoryview]]) -> bool:
    """Fill every buffer from its offset; ascending neighbours with a checksum between them share one call.

    False where the file ends before.
    """
    at = 0
    while at < len(pieces):
        start, end = pieces[at][0], pieces[at][0]
        buffers: list[ByteArray | memoryview] = []
        while at < len(pieces) and len(buffers) < MOST_PIECES - 1:
            offset, buffer = pieces[at]
            if buffers and 0 < offset - end <= _GAP_BYTES:
                buffers.append(_SCRATCH[: offset - end])
            elif offset != end:
                break
            buffers.append(buffer)
            end = offset + len(buffer)
            at += 1
        if not read_run(handle, buffers, start):
            return False
    return True


def read_run(handle: int, buffers: Sequence[ByteArray | memoryview], offset: int) -> bool:
    """Fill buffers one after the other from a place of a file on; short reads go on."""
    if len(buffers) <= MOST_PIECES:
        wanted = sum(map(len, buffers))
        got = os.preadv(handle, buffers, offset)  # type: ignore[arg-type]  # arrays are buffers
        if got == wanted:
            return True
    waiting = [memoryview(b) for b in buffers if len(b)]  # type: ignore[arg-type]  # arrays are buffers
    first = 0
    while first < len(waiting):
        got = os.preadv(handle, waiting[first : first + MOST_PIECES], offset)
        if got == 0:
            return False
        offset += got
        while first < len(waiting) and got >= len(waiting[first]):
            got -= len(waiting[first])
            first += 1
        if got:
            waiting[first] = waiting[first][got:]
    return True


def flush_folder(folder: Path) -> None:
    """Make the names inside a folder durable."""
    with effect("flush-folder", folder):
        _flush(folder)


def flush_folders(files: Sequence[Path], root: Path, *, upper: bool = True) -> None:
    """Flush every folder between the files and `root`, at once.

    Not `upper`: without `root` and the folders in it, except those that hold one of the files.
    """
    folders = {p for f in files for p in f.parents if p == root or root in p.parents}
    if not upper:
        holding = {f.parent for f in files}
        folders = {p for p in folders if p in holding or len(p.parts) > len(root.parts) + 1}
    _flush_at_once("flush-folder", sorted(folders, key=lambda p: (-len(p.parts), p)))


def flush_files(files: Sequence[Path]) -> None:
    """Make the contents of files durable, all at once, so that they share the disk's flushes."""
    try:
        _flush_at_once("flush", files)
    except OSError as bad:
        raise _told(bad, files[0]) from bad


def _flush_at_once(step: str, paths: Sequence[Path]) -> None:
    with ExitStack() as stack:
        for path in paths:
            stack.enter_context(effect(step, path))
        for done in [_flushers(os.getpid()).submit(_flush, path) for path in paths]:
            done.result()


@cache
def _flushers(process: int) -> ThreadPoolExecutor:
    """Threads that wait for the disk; a forked process needs its own."""
    return ThreadPoolExecutor(_FLUSHERS, f"embedstore-flush-{process}")


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _told(bad: OSError, final: Path) -> Exception:
    if bad.errno in _FULL:
        return DiskFullError(
            "the disk is full",
            where=final.name,
            todo="free some space and run the same command again: what is finished stays",
        )
    if bad.errno in _LOCKED:
        return StoreError(
            f"this place cannot be written: {bad.strerror}",
            where=final.parent,
            todo="choose a place where you may write; reading a store needs no such right",
        )
    return bad


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; `StoreError` where that is not allowed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as bad:
        raise _told(bad, folder / "any") from bad


def write_temporary(final: Path, write: Callable[[int], None], *, flush: bool = True) -> Path:
    """Let `write` fill a new file beside `final`, flush it where asked, and return its temporary path.

    The file is removed again when `write` fails; a process that is killed leaves it.
    """
    name = layout.temporary(final)
    try:
        make_folder(final.parent)
        handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except OSError as bad:
        raise _told(bad, final) from bad
    try:
        with effect("write", final):
            write(handle)
        if flush:
            with effect("flush", final):
                os.fsync(handle)
    except Exception as bad:
        name.unlink(missing_ok=True)
        if isinstance(bad, OSError):
            raise _told(bad, final) from bad
        raise
    finally:
        os.close(handle)
    return name


def rename(temporary: Path, final: Path) -> None:
    """Make a finished temporary file exist under its name, in place of what was there."""
    with effect("rename", final):
        temporary.replace(final)


def replace(final: Path, data: bytes) -> None:
    """Write a small file whole, in place of what was there."""
    rename(write_temporary(final, lambda handle: write_pieces(handle, [data])), final)
    flush_folder(final.parent)


def commit(final: Path, data: bytes, *, flush: bool = True) -> bool:
    """Create a small file whole, unless it is there already: then return False and change nothing.

    Without `flush` a loss of power may undo it, or leave it cut short; a kill cannot.
    """
    if final.exists():
        return False
    name = write_temporary(final, lambda handle: write_pieces(handle, [data]), flush=flush)
    with effect("link", final):
        created = _link(name, final, data)
    with effect("unlink", final):
        name.unlink(missing_ok=True)
    if flush:
        flush_folder(final.parent)
    return created


def _link(name: Path, final: Path, data: bytes) -> bool:
    try:
        os.link(name, final)
    except FileExistsError:
        return False
    except FileNotFoundError:
        if final.exists():
            return False
        raise
    except OSError as bad:
        if bad.errno not in _NO_LINKS:
            raise
        return _create(final, data)
    return True


def _create(final: Path, data: bytes) -> bool:
    """The way where a file system has no hard links: exclusive, but a kill may leave it cut short."""
    try:
        handle = os.open(final, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    try:
        write_pieces(handle, [data])
        os.fsync(handle)
    finally:
        os.close(handle)
    return True


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Make a folder and be the only process that works in it; others wait, also for one that renames it.

    The system lets go of it when a process ends, however it ends. Where a file system has no locks, nobody
    waits.
    """
    while True:
        make_folder(folder)
        handle = os.open(folder, os.O_RDONLY)
        try:
            _lock(handle)
            there = folder.stat() if folder.is_dir() else None
            if there is None or os.path.samestat(there, os.fstat(handle)):
                yield
                return
        finally:
            os.close(handle)


def _lock(handle: int) -> None:
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX)
    except (ImportError, OSError):
        return


def remove(path: Path) -> None:
    """Remove a file; another process may have been quicker."""
    with effect("remove", path):
        path.unlink(missing_ok=True)
