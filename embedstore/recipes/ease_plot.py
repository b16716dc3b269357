"""The scatter plot of `bench ease`: CKA against the lowest loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedstore.recipes.page.plots import log_scatter_plot
from embedstore.recipes.page.standalone import on_white

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


def ease_svg(report: EaseReport) -> str:
    """The plot as a file of its own, on white."""
    return on_white(ease_plot(report))
