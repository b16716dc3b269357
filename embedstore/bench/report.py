"""Writing a report to a file, and the outcomes of its rows beside it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from embedstore.bench.outcomes import SUFFIX, outcomes_bytes
from embedstore.errors import StoreError, UsageError
from embedstore.store import files

if TYPE_CHECKING:
    import os

    from embedstore.bench.measured import Measured
    from embedstore.documents import BenchReport, Document


def write_report(report: Document, path: str | os.PathLike[str]) -> None:
    """Write the report as JSON, whole or not at all; `UsageError` where the place cannot be written."""
    write_text(report.to_json(), Path(path))


def write_measured(measured: Measured, path: str | os.PathLike[str]) -> BenchReport:
    """Write the report as JSON, and what became of its rows beside it as `NAME.outcomes.parquet`.

    Each file is whole or not there; the report, which is written last, holds the sha256 of the other and is
    returned as written. `UsageError` where the place cannot be written.
    """
    place = Path(path)
    check_place(place)
    report = with_outcomes(measured, place)
    write_report(report, place)
    return report


def with_outcomes(measured: Measured, place: Path) -> BenchReport:
    """Write the outcomes that belong beside a report at `place`; the report, with their sha256."""
    if not measured.outcomes:
        return measured.report
    data = outcomes_bytes(measured.outcomes)
    _write(data, outcomes_path(place))
    return measured.report.model_copy(update={"outcomes_sha256": hashlib.sha256(data).hexdigest()})


def task_path(reports: Path, task: str) -> Path:
    """Where one report of several would lie, had it a file of its own: beside these."""
    return reports.with_name(f"{_name(reports)}.{task}.json")


def outcomes_path(report: Path) -> Path:
    """Where the outcomes of a report's rows lie: beside it."""
    return report.with_name(_name(report) + SUFFIX)


def _name(report: Path) -> str:
    """Without `.json` alone: `run.v1` and `run.v2` are two reports."""
    return report.name.removesuffix(".json")


def write_text(text: str, path: Path) -> None:
    """Write UTF-8, whole or not at all, into a folder that is there; `UsageError` where that cannot be."""
    _write(text.encode(), path)


def _write(data: bytes, path: Path) -> None:
    check_place(path)
    try:
        files.replace(path, data)
    except (OSError, StoreError) as bad:
        raise UsageError("cannot write the file", where=path, found=bad) from None


def check_place(path: Path) -> None:
    """`UsageError` where no file can be: in a folder that is not there, or in place of a folder."""
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError("cannot write the file", where=path, todo="name a file in a folder that is there")
