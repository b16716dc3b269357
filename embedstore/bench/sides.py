"""Reports as files: what a comparison reads of them, and of the outcomes beside them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedstore.bench.outcomes import read_outcomes
from embedstore.bench.report import outcomes_path, task_path
from embedstore.documents import BenchReport, BenchReports, read_bounded
from embedstore.documents.comparisons import Compared
from embedstore.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from embedstore.bench.outcomes import Outcomes


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One report as it was read, and the outcomes of its rows; `missing`: why there are none."""

    report: BenchReport
    told: Compared
    outcomes: dict[str, Outcomes]
    missing: str


def read_sides(path: Path) -> dict[str, Side]:
    """Task -> report, of a file with one report or with those of `bench all`.

    `UsageError` where it is neither, or the outcomes beside it are not those of the report.
    """
    data = read_bounded(path, UsageError)
    sha256 = hashlib.sha256(data).hexdigest()
    if not _is_several(data):
        report = BenchReport.from_json(data, where=path, error=UsageError)
        return {report.task: _side(report, path, outcomes_path(path), sha256)}
    several = BenchReports.from_json(data, where=path, error=UsageError)
    return {
        task: _side(report, path, outcomes_path(task_path(path, task)), sha256)
        for task, report in several.reports.items()
    }


def _is_several(data: bytes) -> bool:
    try:
        found = json.loads(data)
    except ValueError:
        return False
    return isinstance(found, dict) and "reports" in found


def _side(report: BenchReport, path: Path, beside: Path, sha256: str) -> Side:
    told = Compared(
        file=path.name,
        sha256=sha256,
        head_sha256=report.head_sha256,
        store_fingerprint=report.store_fingerprint,
    )
    if report.outcomes_sha256 is None:
        return Side(report=report, told=told, outcomes={}, missing="it was written without its rows")
    if not beside.is_file():
        return Side(report=report, told=told, outcomes={}, missing=f"{beside.name} is not beside it")
    return Side(report=report, told=told, outcomes=read_outcomes(beside, report.outcomes_sha256), missing="")
