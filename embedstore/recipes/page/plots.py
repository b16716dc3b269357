"""Plots as SVG text, each about 440 pixels wide so that a phone can show it without shrinking its letters.

Drawn without pyplot: no global figure, no window, no backend to choose. Needs the extra `demo`.
"""

from __future__ import annotations

import io
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from embedstore.recipes.page.content import Plot
from embedstore.recipes.page.extra import needs_extra

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from embedstore.recipes.page.content import Measure

Lines: TypeAlias = "Mapping[str, tuple[Sequence[float], Sequence[float]]]"
Points: TypeAlias = "Mapping[str, Sequence[tuple[float, float, str]]]"
INK, BLUE, ORANGE, GREY = "#1b1f24", "#0b5cad", "#b54708", "#5f6773"
_SERIES = (BLUE, ORANGE, "#1a7f4b", "#8a3ffc", "#c2255c", "#0b7285", "#7a5c00", GREY, "#e8590c", "#3b5bdb")
_SIZE = (4.6, 3.0)
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
}


def line_plot(lines: Lines, *, title: str, x: str, y: str) -> Plot:
    """Named lines of (x values, y values) on linear axes."""
    with _looks():
        figure, axes = _figure()
        for (name, (at, values)), colour in zip(lines.items(), (BLUE, ORANGE, GREY), strict=False):
            axes.plot(at, values, color=colour, label=name, linewidth=1.8, marker="o", markersize=3)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if len(lines) > 1:
            axes.legend()
        ends = "; ".join(f"{name} from {v[0]:.3g} to {v[-1]:.3g}" for name, (_, v) in lines.items() if len(v))
        return Plot(svg=_svg(figure), title=title, alt=f"{y} over {x}: {ends}")


def recall_plot(measures: Sequence[Measure], *, title: str) -> Plot:
    """Shares as bars by direction, with their intervals and a mark where chance is."""
    shown = [m for m in measures if m.is_share]
    directions = list(dict.fromkeys(m.direction for m in shown))
    metrics = list(dict.fromkeys(m.metric for m in shown))
    width = 0.8 / len(directions)
    with _looks():
        figure, axes = _figure()
        for measure in shown:
            side = directions.index(measure.direction)
            at = metrics.index(measure.metric) + (side - (len(directions) - 1) / 2) * width
            _bar(axes, measure, at, width, (BLUE, ORANGE)[side % 2])
        axes.set_xticks(range(len(metrics)), metrics)
        axes.set_ylabel("%")
        axes.set_ylim(0, 102)
        axes.grid(visible=False, axis="x")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(directions) + 1, fontsize=9)
        said = "; ".join(f"{m.direction} {m.metric} {100 * m.figure.value:.1f} %" for m in shown)
        return Plot(svg=_svg(figure), title=title, alt=said)


def scatter_plot(groups: Points, *, title: str, x: str, y: str) -> Plot:
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
                color=_SERIES[number % len(_SERIES)],
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


def _bar(axes: Any, measure: Measure, at: float, width: float, colour: str) -> None:
    """One bar in percent with its interval, and chance as a line edged with white across it."""
    from matplotlib.patheffects import withStroke

    value, low, high = (100 * v for v in (measure.figure.value, measure.figure.low, measure.figure.high))
    axes.bar(at, value, width * 0.92, color=colour, label=_once(axes, measure.direction))
    spread = [[max(value - low, 0)], [max(high - value, 0)]]
    axes.errorbar(at, value, spread, color=INK, capsize=3, linewidth=1.2)
    if measure.chance is not None:
        axes.plot(
            (at - width / 2, at + width / 2),
            [100 * measure.chance] * 2,
            color=INK,
            linewidth=1.6,
            label=_once(axes, "chance"),
            path_effects=[withStroke(linewidth=4, foreground="white")],
        )


def _once(axes: Any, name: str) -> str:
    """A legend label the first time a name comes, hidden afterwards."""
    shown = name.replace("_", " ")
    return f"_{shown}" if shown in axes.get_legend_handles_labels()[1] else shown


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
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
