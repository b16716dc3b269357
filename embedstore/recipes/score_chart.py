"""The scores that a subset was chosen from, as one SVG: all, the kept, and the cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedstore.fit.svg import Line, Panel, chart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedstore.curate.score import Scored


def score_chart(found: Scored) -> str:
    """A histogram of every score and of the kept ones, with the cut as a line where there is one."""
    edges, every, kept = (values.tolist() for values in found.histogram())
    lines = [
        Line(name=f"all, {len(found.scores):,}", points=_steps(edges, every)),
        Line(name=f"kept, {len(found.subset):,}", points=_steps(edges, kept)),
    ]
    if found.cut is not None:
        lines.append(Line(name=f"cut at {found.cut:.4g}", points=[(found.cut, 0), (found.cut, max(every))]))
    panel = Panel(
        title=f"{found.subset.table} by score", x="cosine of image and text", lines=lines, whole=False
    )
    return chart([panel], title=f"Subset {found.subset.name}")


def _steps(edges: Sequence[float], counts: Sequence[int]) -> list[tuple[float, float]]:
    points = [(edges[0], 0.0)]
    for k, count in enumerate(counts):
        points += [(edges[k], count), (edges[k + 1], count)]
    return [*points, (edges[-1], 0.0)]
