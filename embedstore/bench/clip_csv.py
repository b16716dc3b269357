"""A report as rows of the table that CLIP_benchmark's `clip_benchmark build` makes of its results.

Its columns are dataset, model, pretrained, task, language, model_fullname, and one for each metric by its
name there; the order of columns is free.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

from embedstore.bench.report import write_text
from embedstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from os import PathLike

    from embedstore.documents import BenchReport

COLUMNS = ("dataset", "model", "pretrained", "task", "language", "model_fullname")
# Group of a report -> task there, and metric -> its name there. "Image retrieval" is by a text.
_CLASSIFICATION = {"top-1": "acc1", "top-5": "acc5", "mean-per-class": "mean_per_class_recall"}
_RETRIEVAL = {k: f"{{}}_retrieval_recall@{k}" for k in (1, 5, 10)}
NAMES: dict[str, tuple[str, dict[str, str]]] = {
    "image_to_class": ("zeroshot_classification", _CLASSIFICATION),
    "text_to_image": (
        "zeroshot_retrieval",
        {f"recall@{k}": name.format("image") for k, name in _RETRIEVAL.items()},
    ),
    "image_to_text": (
        "zeroshot_retrieval",
        {f"recall@{k}": name.format("text") for k, name in _RETRIEVAL.items()},
    ),
}


def csv_rows(reports: Sequence[BenchReport], *, dataset: str, pretrained: str) -> list[dict[str, str]]:
    """A row for each report, task and language that CLIP_benchmark knows; fractions of 1, in full.

    A part of a group ("text_to_image/de") counts as that language where the report is of several.
    `UsageError` where CLIP_benchmark has no name for any of the figures.
    """
    rows = []
    for report in reports:
        model = "+".join(card.model for card in (report.image_card, report.text_card) if card is not None)
        told = {"dataset": dataset, "model": model, "pretrained": pretrained}
        rows += [told | {"model_fullname": f"{model} {pretrained}"} | row for row in _rows(report)]
    if not rows:
        raise UsageError(
            "CLIP_benchmark has no such figures",
            where=f"bench {', '.join(report.task for report in reports)}",
            found=", ".join(group for report in reports for group in report.metrics),
            allowed=", ".join(NAMES),
        )
    return rows


def _rows(report: BenchReport) -> list[dict[str, str]]:
    """Task, language and metrics of each row of one report."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for group, figures in report.metrics.items():
        whole, _, part = group.partition("/")
        if whole not in NAMES or (part and report.language is not None):
            continue
        task, names = NAMES[whole]
        row = found.setdefault((task, part or report.language or "en"), {})
        row |= {names[metric]: repr(figure.value) for metric, figure in figures.items() if metric in names}
    return [{"task": task, "language": language} | row for (task, language), row in found.items() if row]


def append_csv(rows: Iterable[dict[str, str]], path: str | PathLike[str]) -> None:
    """Write rows, behind those that the file has; columns that are new to it stay empty in the old rows.

    Whole or not at all. `UsageError` where the file is no such table, or cannot be written.
    """
    place = Path(path)
    every = [*_read(place), *rows]
    columns = dict.fromkeys([*COLUMNS, *(name for row in every for name in row)])
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(every)
    write_text(text.getvalue(), place)


def _read(path: Path) -> list[dict[str, str]]:
    try:
        if not path.exists() or not path.stat().st_size:
            return []
        with path.open(encoding="utf-8", newline="") as lines:
            table = csv.DictReader(lines, strict=True)
            missing = [name for name in ("dataset", "model", "task") if name not in (table.fieldnames or ())]
            rows = [*table]
    except (OSError, UnicodeDecodeError, csv.Error) as bad:
        raise UsageError("the table cannot be read", where=path, found=str(bad)[:200]) from None
    if missing or any(None in row or None in row.values() for row in rows):
        raise UsageError(
            "this is not a table of CLIP_benchmark: nothing is added to it",
            where=path,
            found=f"no column {', '.join(missing)}" if missing else "lines of another length",
            todo="name another file",
        )
    return rows
