"""How fast a store is read on this machine, beside copies in memory and plain reads of its files."""

from __future__ import annotations

import math
import os
import threading
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from embedstore.bench.timing import REPEATS, Work, measure
from embedstore.documents import FeatureBytes, RatesReport
from embedstore.errors import UsageError
from embedstore.store import GroupReader, Store, layout, open_store
from embedstore.store.reads.resident import make_cold, resident_share
from embedstore.store.remote.cache_folder import is_mirrored
from embedstore.stream.batches import ImageReader, TextReader
from embedstore.stream.dataset import TokenStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from os import PathLike
    from pathlib import Path

    from embedstore.documents import Rate
    from embedstore.shapes import IntArray
    from embedstore.store import Feature
    from embedstore.store.order import Shuffle
    from embedstore.store.reads.chunks import Verify

MEGABYTES = 512
BATCH = 256
_PIECE = 8 << 20
# Larger than the caches of a processor.
_COPIED = 128 << 20
_COLD_ROWS = 1024
_COLD_ROUNDS = 3
SINGLE, COPY, PLAIN = "memcpy, one thread", "memcpy", "plain read"
COLD = "plain read, cold"


def measure_cache(
    store: Store | str | PathLike[str],
    *,
    features: Sequence[str] | None = None,
    megabytes: float = MEGABYTES,
    repeats: int = REPEATS,
    threads: int | None = None,
    seed: int = 0,
    progress: Callable[[str, float, int], None] | None = None,
) -> RatesReport:
    """Rates of reading what a fit reads of each feature: in order, shuffled, row by row; warm and cold.

    Of each feature the first `megabytes` (of 10⁶ bytes) are read, in whole units, through the streams of
    `embedstore.stream` into their reused buffers; nothing is decoded. Beside them, in turns: copies of as
    many bytes in memory, and reads of the same files from end to end, with as many `threads`. Cold: after
    the files were dropped from the page cache, checksums tested as in a first epoch; left out, with a note,
    where the system does not drop them or the store is behind a URL. Several stores (`A+B`) are measured one
    by one, as the features of each lie on its own disk.

    progress: called with the feature's name, features done, and of how many. `UsageError` for a name that no
    store has, and where there is nothing to read.
    """
    if not 0 < megabytes < math.inf:
        raise UsageError("something must be read", where="--megabytes", found=megabytes, allowed="above 0")
    opened = store if isinstance(store, Store) else open_store(store)
    reader = GroupReader(threads)
    chosen = _chosen(opened, features)
    rates: list[Rate] = []
    sizes, cards, notes = {}, {}, []
    tell = progress or (lambda *_: None)
    for number, (label, part, name) in enumerate(chosen):

        def warm(share: float, label: str = label, before: int = number) -> None:
            tell(label, before + share / 2, len(chosen))

        def cold(share: float, label: str = label, before: int = number) -> None:
            tell(label, before + 0.5 + share / 2, len(chosen))

        held = _Held.of(part, name, megabytes=megabytes)
        sizes[label], cards[label] = held.size(), held.feature.card
        rates += measure(list(_warm_works(held, reader, seed)), of=label, repeats=repeats, on_share=warm)
        if not held.files:
            notes.append(
                f"{label}: behind a URL; what was read is in the local cache, cold and plain are not"
            )
        elif make_cold(held.files):
            works = list(_cold_works(held, reader, seed))
            rates += measure(works, of=label, repeats=min(repeats, _COLD_ROUNDS), on_share=cold)
        else:
            notes.append(f"{label}: this system does not drop its files from memory, so nothing is cold")
    tell("", len(chosen), len(chosen))
    return RatesReport(
        task="cache",
        rates=tuple(rates),
        features=sizes,
        cards=cards,
        threads=reader.threads,
        options={"megabytes": megabytes, "repeats": repeats, "batch": BATCH},
        notes=tuple(notes),
        store_fingerprint=opened.fingerprint,
        versions={name: version(name) for name in ("embedstore", "torch", "numpy")},
        seed=seed,
    )


def _chosen(store: Store, names: Sequence[str] | None) -> list[tuple[str, Store, str]]:
    """Label, store and name of each feature: those named, or all that are complete."""
    found = []
    for part in store.parts:
        for name in part.features() if names is None else names:
            if names is not None or part.complete(name):
                label = name if len(store.parts) == 1 else f"{part.path.name}/{name}"
                found.append((label, part, name))
    if not found:
        raise UsageError(
            "there is nothing to read: no feature is complete",
            where=store.place,
            found=f"features {', '.join(store.features()) or 'none'}",
            todo="add one: embedstore encode SOURCE STORE",
        )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """A feature, the rows of it that are read, and where their bytes lie.

    rows `(n,)` int64, rising; nbytes: what a stream reads of them; files: the shards that hold these, none
    behind a URL.
    """

    store: Store
    feature: Feature
    rows: IntArray
    nbytes: int
    files: tuple[Path, ...]

    @classmethod
    def of(cls, store: Store, name: str, *, megabytes: float) -> _Held:
        feature = store[name]
        header = feature.header
        of_unit = max(1.0, feature.manifest.nbytes / header.units)
        units = max(1, min(header.units, int(1e6 * megabytes / of_unit)))
        rows = np.arange(min(header.rows, units * header.shard_rows))
        rows = rows[feature.status()[rows] == 0]
        if not len(rows):
            raise UsageError("no row could be read when this was encoded", where=name)
        if feature.table == "images":
            names, nbytes = ImageReader(feature).names, ImageReader(feature).row_bytes * len(rows)
        else:
            texts = TextReader(feature)
            names, nbytes = (texts.name,), int(texts.lengths(rows).sum()) * texts.place_bytes
        paths = [
            feature.path / layout.shard(array, unit, len(feature.array(array).spec.shape))
            for array in names
            for unit in range(units)
        ]
        here = () if is_mirrored(store.path) else tuple(path for path in paths if path.is_file())
        return cls(store=store, feature=feature, rows=rows, nbytes=max(1, nbytes), files=here)

    def size(self) -> FeatureBytes:
        """What the whole feature takes, and how much of it was in memory just now."""
        feature, header = self.feature, self.feature.header
        return FeatureBytes(
            rows=header.rows,
            nbytes=feature.manifest.nbytes,
            row_bytes=feature.manifest.nbytes / max(1, header.rows),
            policy=header.policy,
            arrays={name: _row_bytes(feature, name) for name in feature.arrays},
            in_memory=resident_share(self.files) if self.files else None,
            measured_rows=len(self.rows),
            measured_bytes=self.nbytes,
        )

    def stream(
        self,
        threads: int,
        shuffle: Shuffle,
        seed: int,
        *,
        verify: Verify = "first",
        rows: IntArray | None = None,
    ) -> Callable[[], None]:
        """Something that reads one epoch of a stream of its own, whose buffers are made by the first."""
        made = TokenStream(
            self.store.feature(self.feature.name, verify=verify),
            batch_size=BATCH,
            rows=self.rows if rows is None else rows,
            seed=seed,
            shuffle=shuffle,
            threads=threads,
        )

        def epoch() -> None:
            made.set_epoch(0)
            for _ in made:
                pass

        return epoch


def _row_bytes(feature: Feature, name: str) -> float:
    """Bytes of one row of an array; of ragged ones on average."""
    array = feature.array(name)  # type: ignore[arg-type]  # the feature's own name of it
    if feature.table == "texts" and name in ("tokens", "scales"):
        return float(feature.lengths().mean()) * array.place_bytes if feature.rows else 0.0
    return float(array.place_bytes)


def _warm_works(held: _Held, reader: GroupReader, seed: int) -> Iterator[Work]:
    amount = float(held.nbytes)
    copies = _Copies(held.nbytes)
    yield Work(what=SINGLE, run=copies.alone, amount=amount, unit="B/s")
    yield Work(what=COPY, run=partial(copies.shared, reader), amount=amount, unit="B/s")
    if held.files:
        yield _plain(held, reader, PLAIN, limit=COPY)
    for what, shuffle in _ORDERS.items():
        run = held.stream(reader.threads, shuffle, seed)
        yield Work(what=what, run=run, amount=amount, unit="B/s", limit=COPY)


_ORDERS: dict[str, Shuffle] = {"in order": "none", "shuffled": "blocks", "random rows": "full"}


def _cold_works(held: _Held, reader: GroupReader, seed: int) -> Iterator[Work]:
    """The same after the page cache was emptied; checksums are tested each time."""
    drop = partial(make_cold, held.files)
    plain = _plain(held, reader, COLD, limit=None)
    yield Work(what=plain.what, run=plain.run, amount=plain.amount, unit="B/s", before=drop)
    few = np.sort(np.random.default_rng(seed).permutation(held.rows)[:_COLD_ROWS])
    for what, rows in (("in order", held.rows), ("shuffled", held.rows), ("random rows", few)):
        run = held.stream(reader.threads, _ORDERS[what], seed, verify="always", rows=rows)
        run()
        amount = held.nbytes * len(rows) / len(held.rows)
        yield Work(what=f"{what}, cold", run=run, amount=amount, unit="B/s", limit=COLD, before=drop)


def _plain(held: _Held, reader: GroupReader, what: str, *, limit: str | None) -> Work:
    """All files from end to end, a piece at a time into a buffer of each piece's thread."""
    sizes = [(path, path.stat().st_size) for path in held.files]
    own = threading.local()

    def piece(path: Path, offset: int) -> None:
        if not hasattr(own, "room"):
            own.room = np.empty(_PIECE, np.uint8)
        handle = os.open(path, os.O_RDONLY)
        try:
            os.preadv(handle, [own.room], offset)
        finally:
            os.close(handle)

    tasks = [partial(piece, path, at) for path, size in sizes for at in range(0, size, _PIECE)]
    whole = float(sum(size for _, size in sizes))
    return Work(what=what, run=lambda: reader.run(tasks), amount=whole, unit="B/s", limit=limit)


class _Copies:
    """Copies of so many bytes in memory, each time between other places of buffers that no cache holds."""

    def __init__(self, nbytes: int) -> None:
        # Written, so that no page of them comes into being while it is timed.
        self._source, self._target = np.ones(_COPIED, np.uint8), np.ones(_COPIED, np.uint8)
        self._nbytes, self._at = nbytes, 0

    def _pieces(self, threads: int) -> Iterator[list[tuple[int, int]]]:
        """Stretches of the buffers, in parts of `threads` each, that come to all bytes."""
        left = self._nbytes
        while left:
            count = min(left, _COPIED - self._at)
            step = -(-count // threads)
            stop = self._at + count
            yield [(low, min(stop, low + step)) for low in range(self._at, stop, step)]
            self._at, left = stop % _COPIED, left - count

    def alone(self) -> None:
        """By one thread."""
        for parts in self._pieces(1):
            for part in parts:
                self._copy(*part)

    def shared(self, reader: GroupReader) -> None:
        """By all threads of a reader."""
        for parts in self._pieces(reader.threads):
            reader.run([partial(self._copy, *part) for part in parts])

    def _copy(self, first: int, stop: int) -> None:
        np.copyto(self._target[first:stop], self._source[first:stop])
