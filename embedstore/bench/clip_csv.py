"""A report as rows of the table that CLIP_benchmark's `clip_benchmark build` makes of its results.

Its columns are dataset, model, pretrained, task, language, model_fullname, and one for each metric by its
name there; the order of columns is free.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

from embedstore.bench.languages.averages import AVERAGE, WITHOUT_ENGLISH
from embedstore.bench.report import check_place, write_text
from embedstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from os import PathLike

    from embedstore.documents import BenchReport

COLUMNS = ("dataset", "model", "pretrained", "task", "language", "model_fullname")
_CLASSIFICATION = {"top-1": "acc1", "top-5": "acc5", "mean-per-class": "mean_per_class_recall"}
# "Image retrieval" is by a text.
_IMAGES = {f"recall@{k}": f"image_retrieval_recall@{k}" for k in (1, 5, 10)}
_TEXTS = {f"recall@{k}": f"text_retrieval_recall@{k}" for k in (1, 5, 10)}
_RETRIEVAL = {
    "text_to_image": ("zeroshot_retrieval", _IMAGES),
    "image_to_text": ("zeroshot_retrieval", _TEXTS),
}
_ZEROSHOT = {"image_to_class": ("zeroshot_classification", _CLASSIFICATION)}
# Task -> group of its report -> the task there, and metric -> its name there.
NAMES: dict[str, dict[str, tuple[str, dict[str, str]]]] = {
    "retrieval": _RETRIEVAL,
    "zeroshot": _ZEROSHOT,
    "multilingual": _RETRIEVAL | _ZEROSHOT,
    "negatives": {"image_to_text": ("image_caption_selection", {"accuracy": "acc"})},
    "probe": {
        "linear/all": ("linear_probe", {"top-1": "lp_acc1", "mean-per-class": "lp_mean_per_class_recall"})
    },
}


def csv_rows(reports: Sequence[BenchReport], *, dataset: str, pretrained: str) -> list[dict[str, str]]:
    """A row for each report, task and language that CLIP_benchmark knows; fractions of 1, in full.

    Of several reports that measured the same, such as multilingual and retrieval in English, one row is kept.
    `UsageError` where CLIP_benchmark has no name for any of the figures.
    """
    rows = []
    for report in reports:
        model = "+".join(card.model for card in (report.image_card, report.text_card) if card is not None)
        told = {"dataset": dataset, "model": model, "pretrained": pretrained}
        told["model_fullname"] = f"{model} {pretrained}"
        rows += [row for found in _rows(report) if (row := told | found) not in rows]
    if not rows:
        raise UsageError(
            "CLIP_benchmark has no such figures",
            where=f"bench {', '.join(report.task for report in reports)}",
            found=", ".join(group for report in reports for group in report.metrics),
            allowed=", ".join(NAMES),
        )
    return rows


def _rows(report: BenchReport) -> list[dict[str, str]]:
    """Task, language and metrics of each row of one report; averages over languages are no language."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    known = NAMES.get(report.task, {})
    for group, figures in report.metrics.items():
        whole, _, part = group.partition("/")
        if group in known:
            (task, names), language = known[group], report.language or "en"
        elif report.task == "multilingual" and whole in known and part not in (AVERAGE, WITHOUT_ENGLISH):
            (task, names), language = known[whole], part
        else:
            continue
        row = found.setdefault((task, language), {})
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


def check_table(path: Path) -> None:
    """`UsageError` where rows could not be appended: no such table, or no place for one."""
    check_place(path)
    _read(path)


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
