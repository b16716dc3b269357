"""The paired measurements of benchmarks/store.py against other formats: warm, cold, and single cold rows."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import store_data
from cold import paired_cold
from common import paired_ratio, timed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from store import Bench

COLD = ("litdata", "lance", "h5py", "tensorstore")
COLD_ROWS = ("arrow", "lance")


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What a benchmark gives its peers: the rows of every group, where groups land, threads, batch."""

    groups: Sequence[np.ndarray]
    room: np.ndarray
    threads: int
    batch: int

    def epoch(self, peer: Any, place: Path, workers: int) -> Callable[[], None]:
        """A function that reads an epoch with what it has opened."""
        if hasattr(peer, "loader"):
            loader = peer.loader(place, workers, self.batch)

            def whole() -> None:
                for _ in loader:
                    pass

            return whole
        gather = peer.opened(place, self.threads)

        def all_groups() -> None:
            for rows in self.groups:
                gather(rows, self.room[: len(rows)])

        return all_groups


def place_of(bench: Bench, peer: Any) -> Path:
    """Where the files of a peer lie: its own, another peer's, or ours."""
    if hasattr(peer, "write") or hasattr(peer, "FILES"):
        return bench.folder / getattr(peer, "FILES", peer.NAME)
    return bench.store.path / "features/vision/tokens"


def warm(bench: Bench, ours: Callable[[], None], compared: Compared) -> dict[str, int]:
    """A warm epoch against every peer; how many workers were fastest for those that have some."""
    fastest = {}
    for peer in bench.peers:
        place, workers = place_of(bench, peer), 0
        setting = f"{peer.NAME}: {peer.SETTING}"
        if hasattr(peer, "loader"):
            check_epochs(peer.loader(place, 0, compared.batch), bench.size.rows, bench.base)
            workers = fastest[peer.NAME] = fastest_workers(compared, peer, place)
            setting += f", {workers} workers"
        else:
            check_equal(peer.opened(place, compared.threads), compared.groups[0], bench.base, compared.room)
        theirs = compared.epoch(peer, place, workers)
        # Workers are forked at first use, after which our buffers are copied once, page by page.
        theirs()
        paired = paired_ratio(ours, theirs, max(1, bench.repeats // 2))
        bench.add(f"shuffle-warm-vs-{peer.NAME}", setting, paired)
        del theirs
        let_go(peer)
    return fastest


def cold(bench: Bench, ours: Callable[[], None], compared: Compared, workers: dict[str, int]) -> None:
    """A cold epoch against the fastest peers; opening and closing counts, also for our own stream."""
    at = bench.store.path / "features/vision"
    for peer in bench.peers:
        if peer.NAME not in COLD:
            continue
        place = place_of(bench, peer)

        def theirs(peer: Any = peer, place: Path = place) -> None:
            # Opened and closed in here: a map that stays open keeps its pages from being dropped.
            compared.epoch(peer, place, workers.get(peer.NAME, 0))()
            let_go(peer)

        paired = paired_cold(ours, at, theirs, place, max(1, bench.repeats // 2))
        bench.add(f"shuffle-cold-vs-{peer.NAME}", f"{peer.NAME}: {peer.SETTING}", paired)


def random_cold(
    bench: Bench, ours: Callable[[], None], wanted: Sequence[np.ndarray], room: np.ndarray, detail: str
) -> None:
    """Single cold rows against the peers that can be asked for rows."""
    at = bench.store.path / "features/vision/tokens"
    for peer in bench.peers:
        if peer.NAME not in COLD_ROWS:
            continue
        place = place_of(bench, peer)

        def theirs(peer: Any = peer, place: Path = place) -> None:
            gather = peer.opened(place, 1)
            for rows in wanted:
                gather(rows, room[: len(rows)])
            del gather
            let_go(peer)

        paired = paired_cold(ours, at, theirs, place, bench.repeats)
        bench.add(f"random-cold-vs-{peer.NAME}", f"{peer.NAME}: {peer.SETTING}", paired, detail=detail)


def let_go(peer: Any) -> None:
    """Close what a peer has open."""
    if hasattr(peer, "forget"):
        peer.forget()
    gc.collect()


def fastest_workers(compared: Compared, peer: Any, place: Path) -> int:
    """No workers, or as many as threads: whichever reads a second epoch faster."""
    times = {}
    for workers in (0, compared.threads):
        epoch = compared.epoch(peer, place, workers)
        epoch()
        times[workers] = timed(epoch)
        del epoch
        let_go(peer)
    return min(times, key=lambda workers: times[workers])


def check_epochs(epochs: Any, rows: int, base: np.ndarray) -> None:
    """Two epochs must bring every row once, as it was written, each in an order of its own."""
    orders = []
    for _ in range(2):
        order = []
        for batch, tokens in epochs:
            found = np.array(batch)
            order.append(found)
            for i in (0, len(found) // 2, len(found) - 1):
                row = int(found[i])
                wanted = store_data.rows_at(base, row, row + 1)[0]
                np.testing.assert_array_equal(np.asarray(tokens[i]), wanted)
        orders.append(np.concatenate(order))
        np.testing.assert_array_equal(np.sort(orders[-1]), np.arange(rows))
    if any((a == b).all() for a, b in ((orders[0], orders[1]), (orders[0], np.arange(rows)))):
        raise SystemExit("a loader did not shuffle")


def check_equal(gather: Callable[..., None], rows: np.ndarray, base: np.ndarray, room: np.ndarray) -> None:
    """A peer must give the rows that were written before its time means anything."""
    gather(rows, room[: len(rows)])
    for i in (0, len(rows) // 2, len(rows) - 1):
        wanted = store_data.rows_at(base, int(rows[i]), int(rows[i]) + 1)[0]
        np.testing.assert_array_equal(room[i], wanted)
