"""Pairs of rows as a Parquet or CSV file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from embedstore.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

ENDINGS = (".parquet", ".csv")


def check_pair_file(path: Path) -> None:
    """`UsageError` before any work where the file cannot be written: its ending, its folder."""
    if path.suffix.lower() not in ENDINGS:
        raise UsageError("unknown kind of file", where=path, allowed=" or ".join(ENDINGS))
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError("cannot be written: no such folder", where=path)


def write_pairs(pairs: pa.Table, path: Path) -> None:
    """The table as the ending of the name says; `UsageError` where it cannot be written."""
    try:
        if path.suffix.lower() == ".csv":
            pc.write_csv(pairs, path)
        else:
            pq.write_table(pairs, path)
    except (OSError, pa.ArrowException) as bad:
        raise UsageError("cannot be written", where=path, found=str(bad)[:200]) from None
