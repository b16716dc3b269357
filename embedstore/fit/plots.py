"""What a fit and a sweep look like: charts from their logs."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Any

from embedstore.fit.files import read_log
from embedstore.fit.svg import Line, Panel, chart
from embedstore.store import files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from embedstore.fit.sweep_report import SweepMember

PLOT = "fit.svg"
_MOST_CURVES = 30
_MOST_NAMES = 24


def write_curves(folder: Path, *, epoch_steps: int) -> None:
    """Draw a finished fit's loss, temperature and validation recall by epoch, from the log in its folder."""
    lines = read_log(folder)
    steps = [line for line in lines if line["kind"] == "step"]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    judged = [line for line in epochs if "recall@1" in line]
    kept = lines[-1]["kept_epoch"]

    def both(name: str, called: str) -> list[Line]:
        each = [(line["step"] / epoch_steps, line[name]) for line in steps]
        return [
            Line(name=called, points=each, faint=True),
            Line(name=called, points=[(line["epoch"], line[name]) for line in epochs]),
        ]

    panels = [
        Panel(title="training loss", x="epoch", lines=both("loss", "training")),
        Panel(title="temperature", x="epoch", lines=both("temperature", "training")),
    ]
    if judged:
        ways = {
            way: [(e["epoch"], 100 * e["recall@1"][way]) for e in judged] for way in judged[0]["recall@1"]
        }
        panels.append(
            Panel(
                title=f"validation recall@1, % (kept: epoch {kept})",
                x="epoch",
                lines=[
                    Line(name=way.replace("_", " "), points=points, dots=[p for p in points if p[0] == kept])
                    for way, points in ways.items()
                ],
            )
        )
    files.replace(folder / PLOT, chart(panels, title=folder.name).encode())


def sweep_chart(members: Sequence[SweepMember], *, title: str) -> str:
    """The figure of all heads by epoch, and against every field that was varied.

    The figure is the mean validation recall@1 of both directions, or else the training loss. In the panel of
    a field every head is a dot above its value; where values are numbers a line joins the means.
    """
    done = [member for member in members if member.status != "failed" and member.curve]
    recall = bool(done) and all(member.recall for member in done)
    figure = "validation recall@1, %" if recall else "training loss"

    def value(line: dict[str, Any]) -> float:
        return 100 * fmean(line["recall@1"].values()) if recall else float(line["loss"])

    panels = []
    if len(done) <= _MOST_CURVES:
        curves = [Line(name=m.name, points=[(e["epoch"], value(e)) for e in m.curve]) for m in done]
        panels.append(Panel(title=figure, x="epoch", lines=curves))
    for name in dict.fromkeys(name for member in done for name in member.varied):
        found: dict[Any, list[float]] = {}
        for member in done:
            if name in member.varied:
                end = next(
                    e for e in member.curve if e["epoch"] == (member.kept_epoch if recall else member.epochs)
                )
                found.setdefault(_known(member.varied[name]), []).append(value(end))
        if not 2 <= len(found) <= _MOST_NAMES:
            continue
        numbers = all(isinstance(v, int | float) for v in found)
        ordered = sorted(found) if numbers else list(found)
        dots = [(float(k), y) for k, v in enumerate(ordered) for y in found[v]]
        means = [(float(k), fmean(found[v])) for k, v in enumerate(ordered)]
        line = Line(name="mean of the heads with a value", points=means if numbers else (), dots=dots)
        panels.append(Panel(title=figure, x=name, lines=[line], names=[str(v) for v in ordered]))
    return chart(panels, title=title)


def _known(value: Any) -> Any:
    """A varied value as a key: numbers and words are theirs, the shares of a mix are their words."""
    return ", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else value
