"""Large files of many pictures: plain ones are read by offset, gzipped ones forwards, remote ones in blocks.

Memory is bounded however large and many the shards are: a few blocks of remote shards, and of gzipped ones
the last `KEPT_BYTES` that were inflated, for what is asked for a little out of order.
"""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict, deque
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedstore.errors import SourceError
from embedstore.sources.reading.files import WINDOW_BYTES, LocalFile
from embedstore.sources.reading.pictures import MAX_FILE_BYTES, BytesPicture, open_picture, refuse_large

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from PIL.Image import Image

    from embedstore.sources.reading.files import File

KEPT_BYTES = 64 << 20
HEADER_WINDOW = 256 << 10
"""What is read at once of a remote tar while its headers are read."""

BLOCKS_KEPT = 16
GZ_FREE_BYTES, GZ_RATIO = 64 << 20, 200
"""Beyond so many inflated bytes, a gzip stream that grows by more than this factor is a bomb."""

_PIECE = 1 << 20
_GZIPS_OPEN = 2
_GZIP = b"\x1f\x8b"
_OTHERS = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}


class Shards:
    """The bytes of some tars by shard number and offset; thread-safe, and cheap to send to a process.

    `in_order` says that remote shards are read in their own order, so that blocks are worth keeping.
    """

    def __init__(self, files: list[File], *, in_order: bool) -> None:
        self.files, self.in_order = files, in_order
        self.gzipped = [False] * len(files)
        self._sizes = [0] * len(files)
        self._stamps: list[tuple[int, int] | None] = [None] * len(files)
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._blocks: OrderedDict[tuple[int, int], Future[bytes]] = OrderedDict()
        self._inflated: OrderedDict[int, Inflated] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_lock", "_blocks", "_inflated")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._reset()

    def note(self, shard: int) -> None:
        """Remember what this file is, so that a change is noticed. Each is noted before it is read."""
        file = self.files[shard]
        if isinstance(file, LocalFile):
            self._stamps[shard] = file.stamp()
        self._sizes[shard] = file.nbytes

    @contextmanager
    def scanning(self, shard: int) -> Iterator[tuple[Callable[[int, int], bytes], int | None]]:
        """A reader of one shard for positions that only grow, and the tar's size where that is known.

        Each shard is scanned once, before anything else is read of it.
        """
        file = self.files[shard]
        self.note(shard)
        with file.open(HEADER_WINDOW) as stream:
            self.gzipped[shard] = _is_gzip(stream.read(6), file)
            if not self.gzipped[shard]:

                def read(start: int, count: int) -> bytes:
                    stream.seek(start)
                    return stream.read(count)

                yield read, self._sizes[shard]
                return
        yield Inflated(file).read_at, None

    def read(self, shard: int, start: int, count: int) -> bytes:
        """Bytes `[start, start + count)`. `SourceError` where the shard has changed, `RemoteError`."""
        if self.gzipped[shard]:
            self._refuse_changed(shard)
            return self._gzip(shard).read_at(start, count)
        if self.alone(shard) or count > WINDOW_BYTES:
            self._refuse_changed(shard)
            return self.files[shard].read_at(start, count)
        first, last = start // WINDOW_BYTES, (start + count - 1) // WINDOW_BYTES
        pieces = b"".join(self._block(shard, number) for number in range(first, last + 1))
        begin = start - first * WINDOW_BYTES
        return pieces[begin : begin + count]

    def alone(self, shard: int) -> bool:
        """Whether a picture of this file is read by itself, without anything that is worth keeping."""
        return not self.gzipped[shard] and not (self.files[shard].remote and self.in_order)

    def _refuse_changed(self, shard: int) -> None:
        file = self.files[shard]
        if isinstance(file, LocalFile) and file.stamp() != self._stamps[shard]:
            raise SourceError("the file changed while it was read", where=file)

    def only(self, shard: int) -> Shards:
        """This one file as number 0: what a process needs that reads one picture of it."""
        one = Shards([self.files[shard]], in_order=self.in_order)
        one._sizes, one._stamps = [self._sizes[shard]], [self._stamps[shard]]
        return one

    def _gzip(self, shard: int) -> Inflated:
        with self._lock:
            if shard not in self._inflated:
                self._inflated[shard] = Inflated(self.files[shard])
                while len(self._inflated) > _GZIPS_OPEN:
                    self._inflated.popitem(last=False)
            self._inflated.move_to_end(shard)
            return self._inflated[shard]

    def _block(self, shard: int, number: int) -> bytes:
        key = shard, number
        with self._lock:
            future = self._blocks.get(key)
            mine = future is None
            if future is None:
                future = self._blocks[key] = Future()
                while len(self._blocks) > BLOCKS_KEPT:
                    self._blocks.popitem(last=False)
            self._blocks.move_to_end(key)
        if mine:
            try:
                start = number * WINDOW_BYTES
                count = min(WINDOW_BYTES, self._sizes[shard] - start)
                future.set_result(self.files[shard].read_at(start, count))
            except BaseException as bad:  # noqa: BLE001 - the threads that wait must hear of it too
                with self._lock:
                    self._blocks.pop(key, None)
                future.set_exception(bad)
        return future.result()


def _is_gzip(first: bytes, file: File) -> bool:
    for magic, name in _OTHERS.items():
        if first.startswith(magic):
            raise SourceError(f"compressed by {name}", where=file, allowed="plain tars, or gzip")
    return first.startswith(_GZIP)


class Inflated:
    """A gzipped file as if it were inflated; what lies far behind the last read is inflated anew."""

    def __init__(self, file: File) -> None:
        self._file, self._nbytes, self._lock = file, file.nbytes, threading.Lock()
        self._restart()

    def _restart(self) -> None:
        self._engine = zlib.decompressobj(wbits=31)
        self._kept: deque[tuple[int, bytes]] = deque()
        self._consumed = self._position = 0
        self._within = self._ended = False

    def read_at(self, start: int, count: int) -> bytes:
        """Bytes `[start, start + count)`; fewer at the end. `SourceError`: damaged, cut off, or a bomb."""
        with self._lock:
            if start < self._oldest():
                self._restart()
            while self._position < start + count and not self._ended:
                piece = self._inflate()
                if piece:
                    self._kept.append((self._position, piece))
                    self._position += len(piece)
                while self._kept and self._droppable(start):
                    self._kept.popleft()
            return self._gather(start, start + count)

    def _oldest(self) -> int:
        return self._kept[0][0] if self._kept else self._position

    def _droppable(self, start: int) -> bool:
        at, piece = self._kept[0]
        return at + len(piece) <= start and self._position - at > KEPT_BYTES

    def _gather(self, start: int, stop: int) -> bytes:
        return b"".join(
            piece[max(0, start - at) : stop - at]
            for at, piece in self._kept
            if at < stop and at + len(piece) > start
        )

    def _inflate(self) -> bytes:
        # The next piece; empty where the compressed data holds none yet, or at the end.
        engine = self._engine
        data = engine.unconsumed_tail
        if engine.eof:  # several streams may follow each other, zeros may fill the file up
            data = engine.unused_data.lstrip(b"\0")
            self._engine = engine = zlib.decompressobj(wbits=31)
            self._within = False
        if not data and self._consumed < self._nbytes:
            data = self._file.read_at(self._consumed, min(_PIECE, self._nbytes - self._consumed))
            self._consumed += len(data)
        if not data:
            if self._within:
                raise SourceError("a gzip stream that is cut off", where=self._file, todo="bring it again")
            self._ended = True
            return b""
        self._within = True
        try:
            piece = engine.decompress(data, _PIECE)
        except zlib.error as bad:
            raise SourceError("a damaged gzip stream", where=self._file, found=bad) from None
        if self._position + len(piece) > GZ_FREE_BYTES + GZ_RATIO * self._consumed:
            raise SourceError(
                "decompression bomb", where=self._file, allowed=f"{GZ_RATIO} times the compressed size"
            )
        return piece


@dataclass(frozen=True, slots=True)
class PackedPicture:
    """A picture that stands in a larger file as it is: in a tar, or among the columns of an Arrow file."""

    shards: Shards
    shard: int
    offset: int
    nbytes: int
    ref: str

    def __reduce__(self) -> tuple[type[Any], tuple[Any, ...]]:
        """To another process as its place; as its bytes where what is beside them is kept here."""
        if self.shards.alone(self.shard) or self.nbytes > MAX_FILE_BYTES:
            one = self.shards.only(self.shard)
            return PackedPicture, (one, 0, self.offset, self.nbytes, self.ref)
        return BytesPicture, (self.shards.read(self.shard, self.offset, self.nbytes), self.ref)

    def open(self) -> Image:
        """The decoded picture, mode RGB, upright. Raises `UnreadableImage`, `SourceError`."""
        refuse_large(self.nbytes)
        return open_picture(self.shards.read(self.shard, self.offset, self.nbytes))
