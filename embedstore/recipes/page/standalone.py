"""Plots as files of their own."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from embedstore.recipes.page.extra import needs_extra

if TYPE_CHECKING:
    from embedstore.recipes.page.content import Plot


def needed_for_plots() -> None:
    """`MissingExtraError` where there is no plotting library: before the work, not after it."""
    with needs_extra():
        import matplotlib as mpl  # noqa: F401 - whether it is there is all that is asked


def on_white(plot: Plot) -> str:
    """SVG text with a title, on white."""
    at = plot.svg.index(">") + 1
    white = f'<title>{escape(plot.title)}</title><rect width="100%" height="100%" fill="#ffffff"/>'
    return plot.svg[:at] + white + plot.svg[at:]
