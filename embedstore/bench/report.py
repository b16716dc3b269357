"""Writing a report to a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from embedstore.errors import StoreError, UsageError
from embedstore.store import files

if TYPE_CHECKING:
    import os

    from embedstore.documents import BenchReport


def write_report(report: BenchReport, path: str | os.PathLike[str]) -> None:
    """Write the report as JSON, whole or not at all; `UsageError` where the place cannot be written."""
    write_text(report.to_json(), Path(path))


def write_text(text: str, path: Path) -> None:
    """Write UTF-8, whole or not at all, into a folder that is there; `UsageError` where that cannot be."""
    check_place(path)
    try:
        files.replace(path, text.encode())
    except (OSError, StoreError) as bad:
        raise UsageError("cannot write the file", where=path, found=bad) from None


def check_place(path: Path) -> None:
    """`UsageError` where no file can be: in a folder that is not there, or in place of a folder."""
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError("cannot write the file", where=path, todo="name a file in a folder that is there")
