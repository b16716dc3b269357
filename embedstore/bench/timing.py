"""Rates from rounds in which all that is compared takes its turn and shares the luck of the machine."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedstore.documents import Rate
from embedstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embedstore.documents import RateUnit

REPEATS = 5
LEAST_SECONDS = 0.1
_MOST_CALLS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Something to be timed: `run` does `amount` of `unit`; `before` is called, untimed, ahead of it.

    What `run` gives, if anything, is the seconds that count. limit: the name of the work that bounds it.
    """

    what: str
    run: Callable[[], float | None]
    amount: float
    unit: RateUnit
    limit: str | None = None
    before: Callable[[], object] | None = None


def measure(
    works: Sequence[Work],
    *,
    of: str,
    repeats: int,
    least: float = LEAST_SECONDS,
    on_share: Callable[[float], None] | None = None,
) -> list[Rate]:
    """The rate of each work over `repeats` rounds, every other one backwards, after one that is not counted.

    What is quicker than `least` seconds is done several times in a round, but for works with a `before`.
    on_share: called with the share that is done. `UsageError` for fewer than one round.
    """
    if repeats < 1:
        raise UsageError("something must be measured", where="--repeats", found=repeats, allowed="1 or more")
    times: dict[str, list[float]] = {work.what: [] for work in works}
    calls: dict[str, int] = {}
    turns = [works if number % 2 else works[::-1] for number in range(repeats + 1)]
    turns[0] = works
    every = [work for turn in turns for work in turn]
    for done, work in enumerate(every):
        if done < len(works):
            calls[work.what] = _calls(work, least)
        else:
            times[work.what].append(_seconds(work, calls[work.what]))
        if on_share is not None:
            on_share((done + 1) / len(every))
    return rates_of(works, times, of=of)


def rates_of(works: Sequence[Work], times: dict[str, list[float]], *, of: str) -> list[Rate]:
    """The rates of works that took so many seconds, round by round."""
    by_name = {work.what: work for work in works}
    found = []
    for work in works:
        rates = [work.amount / seconds for seconds in times[work.what]]
        share = None
        if work.limit is not None:
            bound = by_name[work.limit]
            each = zip(rates, times[work.limit], strict=True)
            share = statistics.median(rate * seconds / bound.amount for rate, seconds in each)
        found.append(
            Rate(
                of=of,
                what=work.what,
                unit=work.unit,
                value=statistics.median(rates),
                low=min(rates),
                high=max(rates),
                rounds=len(rates),
                limit=work.limit,
                share=share,
            )
        )
    return found


def _calls(work: Work, least: float) -> int:
    """How often it is done in a round; the first time, which warms up, tells."""
    seconds = _seconds(work, 1)
    if work.before is not None:
        return 1
    return max(1, min(_MOST_CALLS, round(least / max(seconds, 1e-9))))


def _seconds(work: Work, calls: int) -> float:
    """Seconds of one call, on average."""
    if work.before is not None:
        work.before()
    told, began = 0.0, time.perf_counter()
    for _ in range(calls):
        told += work.run() or 0.0
    return (told or time.perf_counter() - began) / calls
