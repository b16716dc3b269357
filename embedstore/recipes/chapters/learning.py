"""How a head was learnt: loss, temperature and validation recall, from the log that its fit left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedstore.fit.files import LOG, read_log
from embedstore.recipes.page.content import Block, Chapter
from embedstore.recipes.page.plots import Curve, line_plot

if TYPE_CHECKING:
    from pathlib import Path

    from embedstore.recipes.page.content import Plot


def learning_chapter(folder: Path) -> Chapter | None:
    """The curves of the log in a head's folder; none where there is no log, or no whole epoch in it."""
    plots = learning_plots(folder) if (folder / LOG).is_file() else []
    if not plots:
        return None
    return Chapter(
        title="Learning",
        lead="From the log that the fit left beside the head.",
        blocks=(Block(kind="plots", value=plots),),
    )


def learning_plots(folder: Path) -> list[Plot]:
    """Loss, validation recall where there was a validation, and temperature, over the epochs."""
    log = read_log(folder)
    lines = [line for line in log if line["kind"] == "epoch"]
    if not lines:
        return []
    epochs = [line["epoch"] for line in lines]
    plots = [
        line_plot({name: Curve(x=epochs, y=[line[key] for line in lines])}, title=title, x="epoch", y=key)
        for key, name, title in (
            ("loss", "training loss", "Training loss"),
            ("temperature", "temperature", "Temperature τ"),
        )
    ]
    judged = [line for line in lines if "recall@1" in line]
    if judged:
        recall = {
            way.replace("_", " "): Curve(
                x=[line["epoch"] for line in judged], y=[100 * line["recall@1"][way] for line in judged]
            )
            for way in judged[0]["recall@1"]
        }
        kept = log[-1].get("kept_epoch")
        title = "Validation recall@1" + (f"; epoch {kept} was kept" if kept else "")
        plots.insert(1, line_plot(recall, title=title, x="epoch", y="%"))
    return plots
