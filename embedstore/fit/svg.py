"""Small line charts as SVG text: no library, some milliseconds, the same bytes for the same figures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

COLOURS = (
    "#0b5cad", "#b54708", "#1a7f4b", "#8a3ffc", "#c2255c", "#0b7285", "#7a5c00", "#5f6773", "#e8590c",
    "#3b5bdb",
)  # fmt: skip
_WIDTH, _HEIGHT = 380, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 34, 44
_LETTER, _LINE = 6.7, 20
_SHORT = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Points (x, y) joined in their order, and `dots` that are not; lines of one name have one colour."""

    name: str
    points: Sequence[tuple[float, float]] = ()
    dots: Sequence[tuple[float, float]] = ()
    faint: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One pair of axes; x values are whole numbers or any; with `names` the numbers of these, from 0.

    log: x values, all above 0, stand by their logarithm.
    """

    title: str
    x: str
    lines: Sequence[Line]
    names: Sequence[str] = ()
    whole: bool = True
    log: bool = False


def chart(panels: Sequence[Panel], *, title: str, columns: int = 3) -> str:
    """Panels in rows of `columns`, and below them which colour is what, where there are several.

    title: above them; none where the chart stands below a heading of its own.
    """
    names = list(dict.fromkeys(line.name for panel in panels for line in panel.lines))
    colours = {name: COLOURS[k % len(COLOURS)] for k, name in enumerate(names)}
    columns = max(1, min(columns, len(panels)))
    rows = -(-len(panels) // columns)
    width, top = columns * _WIDTH, 34 if title else 0
    body = []
    for k, panel in enumerate(panels):
        x, y = k % columns * _WIDTH, top + k // columns * _HEIGHT
        body.append(f'<g transform="translate({x} {y})">{_panel(panel, colours)}</g>')
    below = top + rows * _HEIGHT + 8
    legend = names if len(names) > 1 else []
    widest = max((len(name) for name in legend), default=0) * _LETTER + 34
    across = max(1, int((width - _LEFT) // widest)) if legend else 1
    for k, name in enumerate(legend):
        left, y = _LEFT + k % across * widest, below + k // across * _LINE
        body.append(
            f'<path d="M{left:.1f} {y + 6}h18" stroke="{colours[name]}" stroke-width="3"/>'
            + _text(left + 24, y + 10, name, anchor="start")
        )
    height = below + -(-len(legend) // across) * _LINE + 8
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="system-ui, DejaVu Sans, sans-serif" font-size="12" '
        f'fill="#1b1f24" role="img">'
        + (f"<title>{escape(title)}</title>" if title else "")
        + f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
        + (_text(16, 22, title, anchor="start", extra=' font-size="15" font-weight="600"') if title else "")
        + "".join(body)
        + "</svg>\n"
    )


def _panel(panel: Panel, colours: dict[str, str]) -> str:
    """Axes from the data's own ends, a line for every name."""
    scaled = (lambda x, y: (math.log10(x), y)) if panel.log else (lambda x, y: (x, y))
    every = [
        scaled(*p) for line in panel.lines for p in (*line.points, *line.dots) if all(map(math.isfinite, p))
    ]
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    out = [_text(_LEFT, 22, panel.title, anchor="start", extra=' font-weight="600"')] if panel.title else []
    if not every:
        return "".join([*out, _text((_LEFT + right) / 2, bottom / 2, "nothing to show")])
    y_ticks = _ticks(min(y for _, y in every), max(y for _, y in every))
    low, high = y_ticks[0], y_ticks[-1]
    first, last = (min(x for x, _ in every), max(x for x, _ in every))
    if panel.names:
        first, last = -0.5, len(panel.names) - 0.5
    elif first == last:
        first, last = first - 0.5, last + 0.5
    elif panel.log:
        first, last = first - (last - first) / 20, last + (last - first) / 20

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + (x - first) / (last - first) * (right - _LEFT),
            bottom - (y - low) / (high - low) * (bottom - _TOP),
        )

    for y in y_ticks:
        level = at(first, y)[1]
        out.append(f'<path d="M{_LEFT} {level:.1f}H{right}" stroke="#e3e6ea"/>')
        out.append(_text(_LEFT - 6, level + 4, _number(y, y_ticks), anchor="end"))
    out += _x_ticks(panel, first, last, at, bottom)
    out.append(f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="#5f6773"/>')
    out.append(_text((_LEFT + right) / 2, _HEIGHT - 4, panel.x))
    for line in panel.lines:
        colour, thin = colours[line.name], ' stroke-opacity="0.45"' if line.faint else ""
        places = [at(*scaled(*p)) for p in line.points if all(map(math.isfinite, p))]
        if len(places) > 1:
            path = " ".join(f"{x:.1f} {y:.1f}" for x, y in places)
            size = 1 if line.faint else 1.8
            out.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="{size}"{thin}/>')
        shown = [at(*scaled(*p)) for p in line.dots if all(map(math.isfinite, p))]
        shown += places if len(places) == 1 else []
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="{colour}"/>' for x, y in shown]
    return "".join(out)


def _x_ticks(
    panel: Panel, first: float, last: float, at: Callable[[float, float], tuple[float, float]], bottom: float
) -> list[str]:
    """Numbers below the axis, or names, which lean where they are long."""
    if panel.log:
        powers = range(math.floor(first), math.ceil(last) + 1)
        marks = [(math.log10(m) + k, f"{m * 10.0**k:g}") for k in powers for m in (1, 2, 5)]
        return [_text(at(x, 0)[0], bottom + 16, mark) for x, mark in marks if first <= x <= last]
    if not panel.names:
        ticks = [x for x in _ticks(first, last, 1.0 if panel.whole else 0.0) if first <= x <= last]
        return [_text(at(x, 0)[0], bottom + 16, _number(x, ticks)) for x in ticks]
    short = [name if len(name) <= _SHORT else name[: _SHORT - 1] + "…" for name in panel.names]
    room = (_WIDTH - _LEFT - _RIGHT) / len(short)
    if max(map(len, short)) * _LETTER <= room:
        return [_text(at(k, 0)[0], bottom + 16, name) for k, name in enumerate(short)]
    return [
        _text(at(k, 0)[0], bottom + 10, name, anchor="end", size=9, lean=True) for k, name in enumerate(short)
    ]


def _ticks(low: float, high: float, least: float = 0.0) -> list[float]:
    """Some five round numbers from below `low` to above `high`, not closer than `least`."""
    if low == high:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    raw = max((high - low) / 4, least)
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    count = range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)
    return [k * step for k in count]


def _number(value: float, ticks: Sequence[float]) -> str:
    """With as many digits as the ticks need to differ."""
    step = min((b - a for a, b in pairwise(ticks)), default=1.0)
    if max(map(abs, ticks)) >= 1e5 or step < 1e-5:
        return f"{value:.2g}"
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    whole = step * 10**digits
    digits += abs(whole - round(whole)) > 1e-6
    return f"{value:.{digits}f}"


def _text(
    x: float,
    y: float,
    words: str,
    *,
    anchor: str = "middle",
    size: int = 0,
    lean: bool = False,
    extra: str = "",
) -> str:
    look = f' font-size="{size}"' if size else ""
    turn = f' transform="rotate(-25 {x:.1f} {y:.1f})"' if lean else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{look}{turn}{extra}>{escape(words)}</text>'
