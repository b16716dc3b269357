"""The scatter plot of `bench ease`: CKA against the lowest loss."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from embedstore.recipes.page.extra import needs_extra
from embedstore.recipes.page.plots import log_scatter_plot

if TYPE_CHECKING:
    from embedstore.documents import EaseReport
    from embedstore.recipes.page.content import Plot

_MOST_NAMED = 12


def ease_plot(report: EaseReport) -> Plot:
    """One point an instance, or an encoder pair: then a colour an image encoder; few pairs are named."""
    groups: dict[str, list[tuple[float, float, str]]] = {}
    named = len(report.points) <= _MOST_NAMED
    for point in report.points:
        words = (point.text or "") if named else ""
        groups.setdefault(point.image or "toy worlds", []).append((point.cka, point.loss, words))
    title = "Encoders that see alike are easier to align?"
    if report.metrics:
        title = f"CKA and the lowest loss: r = {report.metrics['cka']['pearson'].value:.2f}"
    return log_scatter_plot(
        groups, title=title, x="linear CKA", y=f"CLIP loss after {report.iterations} steps"
    )


def needed_for_plots() -> None:
    """`MissingExtraError` where there is no plotting library: before the work, not after it."""
    with needs_extra():
        import matplotlib as mpl  # noqa: F401 - whether it is there is all that is asked


def ease_svg(report: EaseReport) -> str:
    """The plot as a file of its own, on white."""
    plot = ease_plot(report)
    at = plot.svg.index(">") + 1
    white = f'<title>{escape(plot.title)}</title><rect width="100%" height="100%" fill="#ffffff"/>'
    return plot.svg[:at] + white + plot.svg[at:]
