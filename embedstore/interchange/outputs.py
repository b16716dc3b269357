"""Outputs that exist whole or not at all: written under a temporary name, flushed, then renamed."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from embedstore.errors import StoreError, UsageError
from embedstore.store import files, layout

if TYPE_CHECKING:
    from collections.abc import Iterator


def refuse_existing(*outputs: Path) -> None:
    """`UsageError` where one of the outputs is there already."""
    for output in outputs:
        if output.exists() or output.is_symlink():
            raise UsageError(
                "the output exists, and nothing is overwritten",
                where=output.name,
                todo="remove it, or choose another path",
            )


@contextmanager
def new_file(final: Path) -> Iterator[Path]:
    """A temporary name beside `final`; what is written there becomes `final` when the block ends well."""
    refuse_existing(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    name = layout.temporary(final)
    try:
        with _full_disk(final):
            yield name
            _flush(name)
        refuse_existing(final)
        name.rename(final)
        files.flush_folder(final.parent)
    finally:
        name.unlink(missing_ok=True)


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """A temporary folder beside `final`, which takes its name when the block ends well."""
    refuse_existing(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    name = layout.temporary(final)
    name.mkdir()
    try:
        with _full_disk(final):
            yield name
            for here, _, inside in os.walk(name, topdown=False):
                for file in inside:
                    _flush(Path(here, file))
                files.flush_folder(Path(here))
        refuse_existing(final)
        name.rename(final)
        files.flush_folder(final.parent)
    finally:
        shutil.rmtree(name, ignore_errors=True)


@contextmanager
def _full_disk(final: Path) -> Iterator[None]:
    try:
        yield
    except OSError as bad:
        if bad.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise StoreError(
            "the disk is full",
            where=final.name,
            todo="free some space, or export fewer rows: nothing was left",
        ) from bad


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def nbytes(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
