"""Writing a report to a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from embedstore.errors import StoreError, UsageError
from embedstore.store import files

if TYPE_CHECKING:
    import os

    from embedstore.documents import Document


def write_report(report: Document, path: str | os.PathLike[str]) -> None:
    """Write the report as JSON, whole or not at all; `UsageError` where the place cannot be written."""
    write_text(report.to_json(), Path(path))


def write_text(text: str, path: Path) -> None:
    """Write UTF-8, whole or not at all, into a folder that is there; `UsageError` where that cannot be."""
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError("cannot write the file", where=path, todo="name a file in a folder that is there")
    try:
        files.replace(path, text.encode())
    except (OSError, StoreError) as bad:
        raise UsageError("cannot write the file", where=path, found=bad) from None
