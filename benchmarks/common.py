"""What every benchmark shares: paired timing, one row a claim, a table, `--quick` and `--json`.

A script measures ours and a named reference in the same process, in turns, and calls
`main(measure, ...)`; `measure(quick)` gives the rows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Meaning: TypeAlias = Literal[
    "rate ours/reference",
    "time ours/reference",
    "bytes reference/ours",
    "bytes ours/reference",
    "MB",
    "s",
    "GB/s",
    "1 - cosine",
    "points of recall@1",
    "computed/real",
    "growth",
    "relative error",
    "share of an epoch",
    "share of the peak",
    "share of pairs",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One claim: `ratio` read as `meaning` says, against `reference`; `detail` states sizes and threads."""

    name: str
    ratio: float
    meaning: Meaning
    reference: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """Medians of a paired measurement, in seconds; `rate` is reference time over our time."""

    ours: float
    reference: float
    rate: float
    repeats: int

    @property
    def text(self) -> str:
        """Both medians and the number of rounds, for a row's detail."""
        return f"ours {seconds(self.ours)}, reference {seconds(self.reference)}, median of {self.repeats}"


def seconds(value: float) -> str:
    """A duration with three digits, in ms below one second."""
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def timed(action: Callable[[], object]) -> float:
    """Seconds that one call of `action` takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def paired_ratio(
    ours: Callable[[], object], reference: Callable[[], object], repeats: int, *, warmup: int = 1
) -> Paired:
    """Run both in turns, swapping who goes first, and take medians of the times and of their ratios.

    Turns share whatever else the machine is doing, so the ratio of a round is steadier than either time.
    """
    for _ in range(warmup):
        ours()
        reference()
    pairs = []
    for i in range(repeats):
        if i % 2:
            theirs = timed(reference)
            pairs.append((timed(ours), theirs))
        else:
            mine = timed(ours)
            pairs.append((mine, timed(reference)))
    return Paired(
        ours=statistics.median(a for a, _ in pairs),
        reference=statistics.median(b for _, b in pairs),
        rate=statistics.median(b / a for a, b in pairs),
        repeats=repeats,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """Medians of rounds in which two sides took turns: `time` and `cpu`, ours over the reference's.

    `ours` and `reference` are seconds of the clock. Where others use the machine, `cpu` is what counts.
    """

    ours: float
    reference: float
    time: float
    cpu: float
    repeats: int

    @property
    def text(self) -> str:
        """All of it but `time`, for a row's detail."""
        return (
            f"ours {seconds(self.ours)}, reference {seconds(self.reference)}, median of {self.repeats}; "
            f"of CPU time {self.cpu:.3g}"
        )


def turns(
    ours: Callable[[], object], reference: Callable[[], object], repeats: int, *, warmup: int = 1
) -> Turns:
    """As `paired_ratio`, but ratios are of times, and of the CPU time of this process on all its cores."""

    def took(action: Callable[[], object]) -> tuple[float, float]:
        cpu = time.process_time()
        wall = timed(action)
        return wall, time.process_time() - cpu

    for _ in range(warmup):
        ours()
        reference()
    found = []
    for i in range(repeats):
        if i % 2:
            theirs = took(reference)
            found.append((took(ours), theirs))
        else:
            mine = took(ours)
            found.append((mine, took(reference)))
    return Turns(
        ours=statistics.median(a[0] for a, _ in found),
        reference=statistics.median(b[0] for _, b in found),
        time=statistics.median(a[0] / b[0] for a, b in found),
        cpu=statistics.median(a[1] / b[1] for a, b in found),
        repeats=repeats,
    )


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned text."""
    head = ("name", "ratio", "meaning", "reference", "detail")
    cells = [head] + [(r.name, f"{r.ratio:.3g}", r.meaning, r.reference, r.detail) for r in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def main(
    measure: Callable[[bool], Sequence[Row]], *, description: str, argv: Sequence[str] | None = None
) -> None:
    """Parse `--quick` and `--json [FILE]`, measure, and print a table or the JSON list of rows."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="smaller sizes, at most 5 minutes on two cores")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write rows as JSON (default: standard output)"
    )
    options = parser.parse_args(argv)
    rows = measure(options.quick)
    text = json.dumps([asdict(r) for r in rows], indent=2, ensure_ascii=False) + "\n"
    if options.json == "-":
        sys.stdout.write(text)
        return
    if options.json is not None:
        Path(options.json).write_text(text, encoding="utf-8")
    sys.stdout.write(table(rows) + "\n")
