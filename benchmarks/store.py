"""The store against the machine's limits and against other formats: writing, shuffled epochs, random rows.

Every ratio is measured in turns in this process: both sides touch the same bytes with the same threads. Cold
runs are proved by `mincore`. Peers that are not installed are left out and named on standard error.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import store_data
import store_peers
from cold import files_below, make_cold, paired_cold
from common import Meaning, Paired, Row, main, paired_ratio, timed
from peers import installed

from embedstore.store import GroupReader, Store, open_store, row_tasks
from embedstore.stream.dataset import TokenStream
from embedstore.stream.pairs import PairStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

THREADS = len(os.sched_getaffinity(0))
BATCH = 1024
BLOCK = 1536 << 10
GROUP = 192 << 20
RANDOM_ROWS, RANDOM_CALL = 1024, BATCH


@dataclass(frozen=True, kw_only=True)
class Size:
    """Rows × tokens × width in float16; `suffix` follows the names of its rows."""

    rows: int
    tokens: int
    width: int
    suffix: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the tokens."""
        return self.rows, self.tokens, self.width

    @property
    def nbytes(self) -> int:
        """Bytes of the tokens."""
        return 2 * self.rows * self.tokens * self.width

    @property
    def text(self) -> str:
        """Size and threads."""
        return f"{self.rows} x {self.tokens} x {self.width} float16, {THREADS} threads"


SIZES = (
    Size(rows=20_000, tokens=64, width=384, suffix=""),
    Size(rows=4_000, tokens=257, width=1024, suffix="-257x1024"),
)


class Bench:
    """One size in one folder: makes the files, then measures row by row."""

    def __init__(self, size: Size, folder: Path, *, repeats: int) -> None:
        self.size, self.folder, self.repeats = size, folder, repeats
        self.rows: list[Row] = []
        self.base = store_data.base_rows(size.tokens, size.width)
        self.pool = ThreadPoolExecutor(THREADS)

    def add(self, name: str, reference: str, paired: Paired, *, time: bool = False, detail: str = "") -> None:
        """One claim; `time` where the ratio is our time over the reference's."""
        meaning: Meaning = "time ours/reference" if time else "rate ours/reference"
        rate = f"{self.size.nbytes / paired.ours / 1e9:.2f} GB/s; " if not detail else f"{detail}; "
        self.rows.append(
            Row(
                name=name + self.size.suffix,
                ratio=1 / paired.rate if time else paired.rate,
                meaning=meaning,
                reference=reference,
                detail=f"{self.size.text}; {rate}{paired.text}",
            )
        )

    def measure(self) -> list[Row]:
        """Everything for this size."""
        self.writing()
        self.store: Store = open_store(self.folder / "store")
        self.writing_peers()
        self.shuffled()
        self.random()
        self.cold()
        self.pairs()
        self.memory()
        return self.rows

    def parts(self, rows: int) -> Iterator[np.ndarray]:
        """All rows of the data set, some at a time."""
        for first in range(0, self.size.rows, rows):
            yield store_data.rows_at(self.base, first, min(self.size.rows, first + rows))

    def writing(self) -> None:
        """Our writer against one plain file, and against zarr-python's sharded write."""
        store = store_data.plan_store(self.folder / "store", *self.size.shape)
        count = iter(range(10**6))

        def ours() -> None:
            name = f"trial{next(count)}"
            store_data.write_images(store, name, self.base)
            shutil.rmtree(store / "features" / name)

        def plain() -> None:
            place = self.folder / "plain.bin"
            with place.open("wb", buffering=0) as out:
                for part in self.parts(256):
                    out.write(memoryview(part).cast("B"))
                os.fsync(out.fileno())
            place.unlink()

        self.add("write-vs-raw", "one file, write + fsync", paired_ratio(ours, plain, self.repeats))
        try:
            from peers import zarr_python
        except ImportError:
            pass
        else:
            place, spec = self.folder / "trial.zarr", store_data.image_header(store, "vision").arrays[0]

            def alike() -> None:
                zarr_python.write(place, self.parts(1024), self.size.shape, (spec.shard, spec.chunk))
                for path in files_below(place):
                    with path.open("rb") as written:
                        os.fsync(written.fileno())
                shutil.rmtree(place)

            def theirs() -> None:
                zarr_python.write(place, self.parts(1024), self.size.shape)
                shutil.rmtree(place)

            for name, reference, write in (
                ("write-vs-zarr", "zarr-python, our shards and chunks, with crc32c and fsync", alike),
                ("write-vs-zarr-large-chunks", "zarr-python, chunks of 512 KB, no fsync", theirs),
            ):
                self.add(name, reference, paired_ratio(ours, write, max(1, self.repeats // 2), warmup=0))
        store_data.write_images(store, "vision", self.base)
        store_data.write_texts(store, "words", captions=5)

    def writing_peers(self) -> None:
        """The files of every installed peer, and the plain one."""
        np.save(self.folder / "tokens.npy", np.concatenate(list(self.parts(1024))))
        self.peers, missing = installed()
        if missing:
            sys.stderr.write(f"left out, not installed: {', '.join(missing)}\n")
        for peer in self.peers:
            if hasattr(peer, "write"):
                place = self.folder / peer.NAME
                place.mkdir()
                peer.write(place, self.parts(1024), self.size.shape)

    def stream(self, *, verify: Any = "first", direct_io: bool = False) -> TokenStream:
        """A stream over the tokens at the default settings, with a feature that has read nothing."""
        feature = self.store.feature("vision", verify=verify)
        return TokenStream(feature, batch_size=BATCH, threads=THREADS, direct_io=direct_io)

    def shuffled(self) -> None:
        """A warm epoch of the stream against memcpy, the gather of a memory map, and every peer."""
        stream = self.stream()
        epoch(stream)
        plan = stream.plan(0)
        bounds = plan.batches[plan.groups].tolist()
        groups = [plan.rows[low:high] for low, high in pairwise(bounds)]
        room = np.empty((max(len(g) for g in groups), *self.size.shape[1:]), np.float16)
        source = np.ones_like(room)

        def copy() -> None:
            for rows in groups:
                np.copyto(room[: len(rows)], source[: len(rows)])

        def copy_in_threads() -> None:
            for rows in groups:
                self.shared(len(rows), lambda low, high: np.copyto(room[low:high], source[low:high]))

        def run(name: str, reference: str, gather: Callable[[], None], repeats: int) -> None:
            paired = paired_ratio(lambda: epoch(stream), gather, repeats)
            self.add(f"shuffle-warm-vs-{name}", reference, paired)

        run("memcpy", "memcpy into a reused buffer of a group", copy, self.repeats * 2 - 1)
        run("memcpy-threads", "the same in as many threads", copy_in_threads, self.repeats)
        mapped = np.load(self.folder / "tokens.npy", mmap_mode="r")

        def index_map() -> None:
            for low, high in pairwise(plan.batches.tolist()):
                mapped[plan.rows[low:high]]

        def take_from_map() -> None:
            for rows in groups:
                self.shared(len(rows), partial(take, mapped, rows, room))

        run("npy", "batches of a memory map by index, map[rows]", index_map, self.repeats)
        run(
            "npy-take",
            "np.take of a memory map into a reused buffer, in threads",
            take_from_map,
            self.repeats,
        )
        self.compared = store_peers.Compared(groups=groups, room=room, threads=THREADS, batch=BATCH)
        self.workers = store_peers.warm(self, lambda: epoch(stream), self.compared)

    def shared(self, count: int, part: Callable[[int, int], object]) -> None:
        """`part(low, high)` of `count` rows on every thread."""
        cuts = [count * i // THREADS for i in range(THREADS + 1)]
        for _ in self.pool.map(part, cuts[:-1], cuts[1:]):
            pass

    def random(self) -> None:
        """Single rows anywhere: warm against memcpy, cold against a memory map."""
        drawn = np.random.default_rng(1).permutation(self.size.rows)[:RANDOM_ROWS]
        wanted = np.array_split(drawn, max(1, len(drawn) // RANDOM_CALL))
        room = np.empty((len(wanted[0]), *self.size.shape[1:]), np.float16)
        source = np.load(self.folder / "tokens.npy")
        reader = GroupReader(THREADS)

        def ours(feature: Any) -> None:
            for rows in wanted:
                reader.run(row_tasks(feature.array("tokens"), rows, room[: len(rows)]))

        def copies(rows: np.ndarray, low: int, high: int) -> None:
            for i in range(low, high):
                room[i] = source[rows[i]]

        def memcpy() -> None:
            for rows in wanted:
                self.shared(len(rows), partial(copies, rows))

        def from_map() -> None:
            # A map that stays open keeps its pages from being dropped.
            mapped = np.load(self.folder / "tokens.npy", mmap_mode="r")
            for rows in wanted:
                self.shared(len(rows), partial(take, mapped, rows, room))

        feature = self.store["vision"]
        detail = f"{len(drawn)} rows, {len(room)} a call"
        warm = paired_ratio(lambda: ours(feature), memcpy, self.repeats * 2 - 1, warmup=2)
        self.add("random-warm-vs-memcpy", "memcpy of the same rows in memory", warm, detail=detail)
        at, their = self.store.path / "features/vision/tokens", self.folder / "tokens.npy"
        cold = paired_cold(lambda: ours(self.store["vision"]), at, from_map, their, self.repeats)
        self.add("random-cold-vs-npy", "np.take of a memory map", cold, detail=detail)
        store_peers.random_cold(self, lambda: ours(self.store["vision"]), wanted, room, detail)

    def cold(self) -> None:
        """A cold epoch against the disk, and what the checksums of a first epoch cost."""
        plain, at = self.folder / "tokens.npy", self.store.path / "features/vision"
        count = plain.stat().st_size // BLOCK
        order = np.random.default_rng(0).permutation(count).tolist()
        room = [paged(BLOCK) for _ in range(THREADS)]

        def disk(flags: int = 0) -> None:
            handle = os.open(plain, os.O_RDONLY | flags)

            def some(low: int, high: int) -> None:
                for block in order[low:high]:
                    os.preadv(handle, [room[low * THREADS // count]], block * BLOCK)

            self.shared(count, some)
            os.close(handle)

        def stream(**options: Any) -> Callable[[], None]:
            """An epoch of a stream that has its buffers; with `always` each is like a first one."""
            made = self.stream(**options)
            epoch(made)
            return partial(epoch, made)

        checked, unchecked = stream(verify="always"), stream(verify="never")
        first = paired_cold(checked, at, disk, plain, self.repeats)
        self.add("shuffle-cold-vs-disk", "blocks of 1.5 MB of one file, any order", first)
        if hasattr(os, "O_DIRECT"):
            past = paired_cold(
                stream(verify="always", direct_io=True), at, partial(disk, os.O_DIRECT), plain, self.repeats
            )
            self.add("shuffle-direct-vs-disk", "the same blocks, both past the page cache", past)
        cost = paired_cold(checked, at, unchecked, at, self.repeats)
        self.add("crc-first-epoch", "the same epoch without checksums", cost, time=True)
        store_peers.cold(self, lambda: epoch(self.stream()), self.compared, self.workers)

    def pairs(self) -> None:
        """Pictures with one of five captions each against pictures alone, both warm."""
        rows = np.arange(self.size.rows)
        both = PairStream(
            self.store, image="vision", text="words", rows=rows, batch_size=BATCH, threads=THREADS
        )
        alone = self.stream()

        def paired() -> None:
            with both.epoch(0) as batches:
                for _ in batches:
                    pass

        ratio = paired_ratio(paired, lambda: epoch(alone), self.repeats * 2 - 1, warmup=2)
        self.add("pairs-vs-images", "the image stream alone", ratio, detail=store_data.TEXTS)

    def memory(self) -> None:
        """Anonymous memory that a stream of pairs adds, in a process of its own."""
        script = Path(__file__).with_name("store_data.py")
        done = subprocess.run(
            [sys.executable, script, self.store.path], capture_output=True, text=True, check=True
        )
        self.rows.append(
            Row(
                name="stream-anon-mb" + self.size.suffix,
                ratio=float(done.stdout),
                meaning="MB",
                reference="at most 600",
                detail=f"{self.size.text}; growth of RssAnon over two epochs of pairs, "
                f"batch {store_data.DEFAULT_BATCH}",
            )
        )


def epoch(stream: TokenStream) -> None:
    """One epoch; batches are views, so nothing more is done with them."""
    stream.set_epoch(0)
    for _ in stream:
        pass


def paged(nbytes: int) -> np.ndarray:
    """A buffer that begins at a page, as reads past the page cache must have it."""
    room = np.empty(nbytes + 4096, np.uint8)
    skip = -room.ctypes.data % 4096
    return room[skip : skip + nbytes]


def take(mapped: np.ndarray, rows: np.ndarray, room: np.ndarray, low: int, high: int) -> None:
    """Some rows of a memory map into their part of a buffer; `raise` would go by way of a second buffer."""
    np.take(mapped, rows[low:high], axis=0, out=room[low:high], mode="clip")


def opening(folder: Path, shards: int) -> Row:
    """Open a store of very many shards and read 64 rows from anywhere."""
    store = store_data.many_shards(folder / "many", shards)
    rows = np.random.default_rng(0).integers(shards, size=64)
    times = []
    for _ in range(3):
        make_cold(store / "plan.json")
        times.append(timed(lambda: open_store(store)["vision"].gather("tokens", rows)))
    return Row(
        name="open-100k-shards-s",
        ratio=sorted(times)[1],
        meaning="s",
        reference="at most 1",
        detail=f"{shards} shards of one array; open the store and the feature, read 64 rows",
    )


def measure(quick: bool) -> list[Row]:  # noqa: FBT001 - the one argument of every benchmark
    """Both sizes and the opening; `--quick`: a quarter of the rows, a tenth of the shards, fewer repeats."""
    found: list[Row] = []
    for size in SIZES:
        part = Size(
            rows=size.rows // (4 if quick else 1), tokens=size.tokens, width=size.width, suffix=size.suffix
        )
        with tempfile.TemporaryDirectory() as folder:
            found += Bench(part, Path(folder), repeats=3 if quick else 5).measure()
    with tempfile.TemporaryDirectory() as folder:
        found.append(opening(Path(folder), 10_000 if quick else 100_000))
    return found


if __name__ == "__main__":
    main(measure, description=__doc__.splitlines()[0])
