"""Cold files: dropped from the page cache, and proved to be gone, before a measurement."""

from __future__ import annotations

import os
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

from common import Paired, timed

from embedstore.store.reads import resident

if TYPE_CHECKING:
    from collections.abc import Callable


def files_below(place: Path) -> list[Path]:
    """A file, or every file below a folder."""
    if place.is_file():
        return [place]
    return [Path(here, name) for here, _, names in os.walk(place) for name in names]


def make_cold(place: Path) -> None:
    """Drop a file or folder from the page cache; ends the benchmark where over 1 % stays."""
    if not resident.make_cold(files_below(place)):
        raise SystemExit(f"{place.name} cannot be dropped from the page cache: no cold figure can be had")


def paired_cold(
    ours: Callable[[], object],
    ours_at: Path,
    reference: Callable[[], object],
    reference_at: Path,
    repeats: int,
) -> Paired:
    """As `paired_ratio`, each run after its own files were made cold."""

    def run(action: Callable[[], object], place: Path) -> float:
        make_cold(place)
        return timed(action)

    pairs = []
    for i in range(repeats):
        if i % 2:
            theirs = run(reference, reference_at)
            pairs.append((run(ours, ours_at), theirs))
        else:
            mine = run(ours, ours_at)
            pairs.append((mine, run(reference, reference_at)))
    return Paired(
        ours=statistics.median(a for a, _ in pairs),
        reference=statistics.median(b for _, b in pairs),
        rate=statistics.median(b / a for a, b in pairs),
        repeats=repeats,
    )
