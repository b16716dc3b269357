"""Writing a report to a file."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from embedstore.errors import UsageError

if TYPE_CHECKING:
    from embedstore.documents import BenchReport


def write_report(report: BenchReport, path: str | os.PathLike[str]) -> None:
    """Write the report as JSON, whole or not at all; `UsageError` where the place cannot be written."""
    write_text(report.to_json(), Path(path))


def write_text(text: str, path: Path) -> None:
    """Write UTF-8 under a temporary name beside `path`, then rename."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as bad:
        temporary.unlink(missing_ok=True)
        raise UsageError(f"cannot write the file: {bad.strerror}", where=path) from None
