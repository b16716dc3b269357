"""Rates from turns: medians, shares of limits, and what is done before."""

import itertools

import pytest

from embedstore.bench import timing
from embedstore.bench.timing import Work, measure, rates_of
from embedstore.errors import UsageError


@pytest.fixture
def clock(monkeypatch):
    """A clock that only work moves."""

    class Clock:
        now = 0.0

        def takes(self, *seconds):
            turns = itertools.cycle(seconds)

            def run():
                self.now += next(turns)

            return run

    found = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: found.now)
    return found


def test_rates_by_hand():
    works = [
        Work(what="ours", run=print, amount=10, unit="steps/s", limit="theirs"),
        Work(what="theirs", run=print, amount=40, unit="steps/s"),
    ]
    ours, theirs = rates_of(works, {"ours": [1.0, 2.0, 5.0], "theirs": [1.0, 4.0, 2.0]}, of="fit")
    assert (ours.value, ours.low, ours.high, ours.rounds) == (5, 2, 10, 3)
    assert (theirs.value, theirs.low, theirs.high) == (20, 10, 40)
    # Round by round 10 / 40, 5 / 10 and 2 / 20.
    assert ours.share == 0.25
    assert theirs.share is None
    assert theirs.of == "fit"


def test_quick_work_is_repeated_until_it_can_be_timed(clock):
    calls = []
    once = clock.takes(0.01)

    def run():
        calls.append(1)
        once()

    (rate,) = measure([Work(what="x", run=run, amount=2, unit="steps/s")], of="y", repeats=3, least=0.1)
    assert rate.value == pytest.approx(200)
    assert len(calls) == 1 + 3 * 10


def test_what_comes_before_is_not_timed_and_never_left_out(clock):
    seen = []
    dear = clock.takes(50.0)

    def before():
        seen.append("before")
        dear()

    def run():
        seen.append("run")
        clock.now += 0.001

    (rate,) = measure(
        [Work(what="cold", run=run, before=before, amount=1, unit="B/s")], of="y", repeats=2, least=0.1
    )
    assert seen == ["before", "run"] * 3
    assert rate.value == pytest.approx(1000)


def test_turns_are_swapped_in_every_other_round(clock):
    seen = []

    def work(name):
        def run():
            seen.append(name)
            clock.now += 1.0

        return Work(what=name, run=run, amount=1, unit="B/s")

    measure([work("a"), work("b")], of="y", repeats=2)
    assert "".join(seen) == "ab" + "ab" + "ba"


def test_no_round_is_refused():
    with pytest.raises(UsageError, match="1 or more"):
        measure([Work(what="x", run=print, amount=1, unit="B/s")], of="y", repeats=0)
