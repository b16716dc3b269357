"""Take damage out of a store, so that the command that made a feature makes just the damaged units again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedstore.errors import StoreError
from embedstore.store import files, geometry, journal, layout
from embedstore.store.advice import make_again

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from embedstore.store.checks.report import Finding
    from embedstore.store.reader import Store


def repair_store(store: Store, findings: Iterable[Finding]) -> tuple[list[str], list[Finding]]:
    """What was done, in words, and the corrupt findings that nothing here can mend.

    Tables, plan and headers cannot be made again without the source: these findings remain.
    """
    done: list[str] = []
    remaining: list[Finding] = []
    damaged: dict[str, set[int]] = {}
    for found in findings:
        if found.kind == "leftover":
            files.remove(store.path / found.where)
            done.append(f"removed {found.where}")
        elif found.kind == "corrupt" and found.feature is not None:
            units = damaged.setdefault(found.feature, set())
            if found.unit is not None:
                units.add(found.unit)
        elif found.kind == "corrupt" and not _rewrite_metadata(store, found, done):
            remaining.append(found)
    for name, units in damaged.items():
        folder = layout.feature(store.path, name)
        try:
            geometry.check_header(journal.read_header(folder), store.plan)
            done.append(_reopen(folder, units))
        except (StoreError, OSError):
            remaining += [f for f in findings if f.feature == name and f.kind == "corrupt"]
    return done, remaining


def _rewrite_metadata(store: Store, found: Finding, done: list[str]) -> bool:
    wanted = journal.zarr_files(store.path)
    if found.where not in wanted:
        return False
    files.replace(store.path / found.where, wanted[found.where])
    done.append(f"wrote {found.where} again")
    return True


def _reopen(feature: Path, damaged: set[int]) -> str:
    """Put a feature back to begun: records of its good units only. Safe to be stopped anywhere."""
    header = journal.read_header(feature)
    if (feature / layout.MANIFEST).is_file():
        try:
            records = list(journal.consolidated(feature, header)) if damaged else []
        except StoreError:
            records = []
        for record in records:
            if record.unit not in damaged:
                files.replace(layout.record(feature, record.unit), record.to_json().encode())
        for name in (layout.MANIFEST, layout.UNITS_TABLE, layout.QUARANTINE):
            files.remove(feature / name)
    for unit in damaged:
        files.remove(layout.record(feature, unit))
    files.flush_folder(feature)
    left = len(layout.records(feature))
    which = ", ".join(map(str, sorted(damaged)[:10])) or "all"
    again = make_again(layout.store_of(feature), header)
    return f"{header.name}: units {which} are taken out, {left} stay; {again}"
