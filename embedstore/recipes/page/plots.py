"""Plots as SVG text, each about 440 pixels wide so that a phone can show it without shrinking its letters.

Drawn without pyplot: no global figure, no window, no backend to choose. Needs the extra `demo`.
"""

from __future__ import annotations

import io
import re
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from embedstore.recipes.page.content import Plot
from embedstore.recipes.page.extra import needs_extra

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from embedstore.recipes.page.content import Measure
    from embedstore.shapes import FloatArray, IntArray

Points: TypeAlias = "Mapping[str, Sequence[tuple[float, float, str]]]"
INK, GREY, BLUE, ORANGE = "#1b1f24", "#5f6773", "#0b5cad", "#b54708"
COLOURS = (BLUE, ORANGE, "#1a7f4b", "#8a3ffc", "#c2255c", "#0b7285", "#7a5c00", "#e8590c", "#3b5bdb", GREY)
MARKS = "osD^vPX*<>"
_WIDTH, _HEIGHT, _ROW = 4.6, 3.0, 0.22
_LETTERS = 22
_NOT_XML = re.compile("[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LOOK = {
    "svg.fonttype": "none",
    "svg.hashsalt": "embedstore",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e6ea",
    "legend.frameon": False,
    "legend.fontsize": 9,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A row of a plot of figures: what it belongs to, its name, and the figure."""

    under: str
    name: str
    measure: Measure


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Points of a line and, where known, the interval of each; `chance`: a thin dashed line of no colour."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    chance: bool = False


def line_plot(
    curves: Mapping[str, Curve], *, title: str, x: str, y: str, at: Sequence[float] | None = None
) -> Plot:
    """Named curves; `at`: the ticks of an x axis by powers of 2, else x counts 1, 2, 3."""
    with _looks():
        figure, axes = _figure()
        looks = iter(zip(COLOURS * len(curves), MARKS * len(curves), strict=True))
        for name, curve in curves.items():
            if curve.chance:
                axes.plot(curve.x, curve.y, color=GREY, label=short(name), linewidth=1.2, linestyle="--")
                continue
            colour, mark = next(looks)
            axes.plot(
                curve.x, curve.y, color=colour, label=short(name), linewidth=1.8, marker=mark, markersize=3.5
            )
            if len(curve.low):
                axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
        if at is None:
            axes.xaxis.get_major_locator().set_params(integer=True)
        else:
            axes.set_xscale("log", base=2)
            axes.set_xticks(at, [f"{tick:g}" for tick in at])
            axes.minorticks_off()
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        if len(curves) > 1:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
        ends = "; ".join(f"{name} from {c.y[0]:.3g} to {c.y[-1]:.3g}" for name, c in curves.items())
        return Plot(svg=_svg(figure), title=title, alt=f"{y} over {x}: {ends}")


def interval_plot(rows: Sequence[Interval], *, title: str) -> Plot:
    """Shares as dots in rows under what they belong to, with 95 % intervals, and a tick where chance is.

    A dot is hollow where the interval does not exclude chance.
    """
    lines: list[Interval | str] = []
    for under in dict.fromkeys(row.under for row in rows):
        lines += [under, *(row for row in rows if row.under == under)]
    with _looks():
        figure, axes = _figure(height=0.85 + _ROW * len(lines))
        for place, line in enumerate(lines):
            if isinstance(line, str):
                words = short(_spoken(line), 2 * _LETTERS)
                axes.text(-1, place, words, fontweight="bold", ha="left", va="center")
            else:
                _interval(axes, place, line.measure)
        names = ["" if isinstance(line, str) else short(_spoken(line.name)) for line in lines]
        axes.set_yticks(range(len(lines)), names)
        axes.set_ylim(len(lines) - 0.5, -0.5)
        axes.set_xlim(-2, 102)
        axes.set_xlabel("%")
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        said = "; ".join(
            f"{_spoken(row.under)}, {_spoken(row.name)} {100 * row.measure.figure.value:.1f} %"
            for row in rows
        )
        return Plot(svg=_svg(figure), title=title, alt=said)


def _spoken(name: str) -> str:
    return name.replace("_", " ").replace("/", ", ")


def log_scatter_plot(groups: Points, *, title: str, x: str, y: str) -> Plot:
    """Named groups of points (x, y, words beside it or none); y on a logarithmic axis."""
    with _looks():
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        figure, axes = _figure()
        for number, (name, points) in enumerate(groups.items()):
            at, values = [point[0] for point in points], [point[1] for point in points]
            many = len(at) > 100
            axes.scatter(
                at,
                values,
                s=9 if many else 26,
                color=COLOURS[number % len(COLOURS)],
                alpha=0.45 if many else 1,
                linewidths=0,
                label=name,
            )
            for left, high, words in points:
                if words:
                    axes.annotate(words, (left, high), (4, 3), textcoords="offset points", fontsize=8)
        if any(words for points in groups.values() for _, _, words in points):
            axes.margins(x=0.18)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        if len(groups) > 1:
            axes.legend(fontsize=8)
        count = sum(map(len, groups.values()))
        return Plot(svg=_svg(figure), title=title, alt=f"{title}: {count} points, {y} over {x}")


def _interval(axes: Any, place: int, measure: Measure) -> None:
    low, value, high = (100 * v for v in (measure.figure.low, measure.figure.value, measure.figure.high))
    known = measure.against_chance in ("better", None)
    axes.plot((low, high), (place, place), color=BLUE if known else ORANGE, linewidth=2)
    axes.plot(
        value,
        place,
        marker="o",
        markersize=6,
        markeredgewidth=1.8,
        color=BLUE if known else ORANGE,
        markerfacecolor=BLUE if known else "white",
    )
    if measure.chance is not None:
        axes.plot(100 * measure.chance, place, marker="|", markersize=11, markeredgewidth=1.8, color=INK)


def confusion_plot(table: IntArray, names: Sequence[str], *, sizes: IntArray, title: str) -> Plot:
    """Counts `(c, c)` as shares of their row's `sizes (c,)`, dark where many; written where they fit."""
    whole = sizes[:, None]
    shares = np.divide(table, whole, out=np.zeros(table.shape), where=whole > 0)
    few = len(names) <= 12
    with _looks():
        figure, axes = _figure(height=4.4 if few else 5.2)
        axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=0.4)
        at = np.arange(len(names)) + 0.5
        size = 9 if few else max(4, 9 - len(names) // 8)
        shown = [short(name, 16) for name in names]
        axes.set_xticks(at, shown, rotation=90, fontsize=size)
        axes.set_yticks(at, shown, fontsize=size)
        axes.invert_yaxis()
        axes.set_xlabel("called")
        axes.set_ylabel("is")
        axes.grid(visible=False)
        axes.tick_params(length=0)
        for i, j in zip(*np.nonzero(shares >= 0.005), strict=True) if few else ():
            colour = "white" if shares[i, j] > 0.55 else INK
            words = f"{100 * shares[i, j]:.0f}"
            axes.text(at[j], at[i], words, ha="center", va="center", fontsize=8, color=colour)
        said = "; ".join(f"{name} {100 * shares[c, c]:.0f} % right" for c, name in enumerate(names))
        return Plot(svg=_svg(figure), title=title, alt=said)


def scatter_plot(
    points: FloatArray, groups: IntArray, names: Sequence[str], *, title: str, note: str, hollow: int = 0
) -> Plot:
    """Points `(n, 2)` in the colour and shape of their group `(n,)`; the last `hollow` are outlines."""
    solid = np.arange(len(points)) < len(points) - hollow
    with _looks():
        figure, axes = _figure(height=3.9)
        for k, name in enumerate(names):
            colour, mark = COLOURS[k % len(COLOURS)], MARKS[k % len(MARKS)]
            look = {"s": 14, "marker": mark, "edgecolors": colour, "linewidths": 0.9}
            for own, face, label in ((solid, colour, short(name)), (~solid, "none", None)):
                axes.scatter(*points[own & (groups == k)].T, facecolors=face, label=label, **look)
        axes.set_axis_off()
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=3, handletextpad=0.2)
        return Plot(svg=_svg(figure), title=title, alt=f"{title}: {note}", note=note)


def short(name: str, most: int = _LETTERS) -> str:
    """A name in one line that leaves room for the figures, of letters that may stand in an SVG."""
    name = _NOT_XML.sub("\ufffd", " ".join(name.split()))
    if name.startswith("_"):
        name = f"\u200a{name}"  # matplotlib takes a name that begins so for none, and leaves it out
    return name if len(name) <= most else name[: most - 1] + "…"


def _figure(*, height: float = _HEIGHT) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.subplots()


@contextmanager
def _looks() -> Iterator[None]:
    """Our look, and no warning about letters that the measuring font lacks: the browser's fonts draw them."""
    with needs_extra():
        import matplotlib as mpl
    with mpl.rc_context(_LOOK), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        yield


def _svg(figure: Any) -> str:
    """The figure as SVG without clock, program name or XML prologue."""
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    return text[text.index("<svg") :]
