"""Tables of bench that are not one report's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from embedstore.documents import NOT_SHARES
from embedstore_cli import render

if TYPE_CHECKING:
    from embedstore.documents import Comparison, Comparisons, Difference

_MOST_SETTINGS = 16
_LONGEST = 40
_HASH = re.compile(r"[0-9a-f]{64}")
_HOW = {
    "paired": "paired bootstrap",
    "unpaired": "unpaired bootstrap, each report's rows by themselves",
    "intervals": "unpaired, from the two reports' intervals",
}


def comparisons(found: Comparisons) -> None:
    """Two files side by side, task by task."""
    first = found.comparisons[0]
    render.say(f"A: {first.a.file}")
    render.say(f"B: {first.b.file}")
    for place, one in enumerate(found.comparisons):
        if place:
            render.say()
        _comparison(one)
    for task, side in found.only.items():
        render.say(f"only in {side.upper()}: task {task}")


def _comparison(found: Comparison) -> None:
    """Each difference with its interval, and how the interval came about."""
    rows = [
        (f"{group.replace('_', ' ')} {metric}", *_cells(difference, share=metric not in NOT_SHARES))
        for group, metrics in found.metrics.items()
        for metric, difference in metrics.items()
    ]
    render.table(found.task, ("", "A", "B", "B − A", "95 % interval", ""), rows, words=("",))
    for group, metrics in found.metrics.items():
        for how in dict.fromkeys(difference.how for difference in metrics.values()):
            why = f" over {found.units[group]} images" if how == "paired" else _why(found, group)
            render.fold(f"{group.replace('_', ' ')}: {_HOW[how]}{why}")
    render.fold(_judged(found))
    for name, side in found.only.items():
        render.fold(f"only in {side.upper()}: {name}")
    for note in found.notes:
        render.fold(note.replace("_", " "))
    _settings(found)


def _why(found: Comparison, group: str) -> str:
    return f" ({found.unpaired[group]})" if group in found.unpaired else ""


def _cells(found: Difference, *, share: bool) -> tuple[str, ...]:
    def number(value: float, *, signed: bool = False) -> str:
        sign = "+" if signed else ""
        return f"{100 * value:{sign}.1f}" if share else f"{value:{sign}.4g}"

    of = found.difference
    return (
        number(found.a.value) + (" %" if share else ""),
        number(found.b.value) + (" %" if share else ""),
        number(of.value, signed=True),
        f"{number(of.low, signed=True)} to {number(of.high, signed=True)}",
        "noise" if found.better == "noise" else f"{found.better.upper()} better",
    )


def _judged(found: Comparison) -> str:
    """What all the verdicts come to, and how many of them chance alone would give."""
    every = [d for metrics in found.metrics.values() for d in metrics.values()]
    real = sum(d.better != "noise" for d in every)
    if not real:
        return "no figure differs by more than noise: each interval of a difference holds 0"
    words = f"{real} of {len(every)} figures differ by more than noise: their intervals leave out 0"
    return words + (f" (by chance alone about {len(every) / 20:.1f} would)" if len(every) > 1 else "")


def _settings(found: Comparison) -> None:
    if not found.settings:
        render.fold("all else is the same: store, head, cards, split, versions, device, seed")
        return
    rows = [(name, _short(a), _short(b)) for name, (a, b) in found.settings.items()]
    render.say()
    render.table("what else differs", ("", "A", "B"), rows[:_MOST_SETTINGS], words=("A", "B"))
    if len(rows) > _MOST_SETTINGS:
        render.say(f"and {len(rows) - _MOST_SETTINGS} more: --json tells all")


def _short(value: str | None) -> str:
    if value is None:
        return "–"
    shown = value[:12] + "…" if _HASH.fullmatch(value) else value
    return shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + "…"
