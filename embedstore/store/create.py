"""The planning step: tables first, then the plan, which makes the store exist."""

from __future__ import annotations

import json
from importlib.metadata import version
from itertools import chain, islice
from typing import TYPE_CHECKING

from embedstore.documents import FORMAT_VERSION, Plan, read_bounded, refuse_differences
from embedstore.errors import CorruptStoreError, FormatVersionError, StorageValueError, StoreError
from embedstore.store import files, geometry, layout, tables

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from embedstore.store.tables import Rows

_OURS = {layout.ZARR, layout.TABLES, layout.FEATURES}
_TODO = "give the options of the first run, restore the source, or choose a new store path"


def refuse_newer(text: bytes, *, where: str) -> None:
    """Raise `FormatVersionError` for a document of a later format, before any field is looked at."""
    try:
        document = json.loads(text)
        found = max(
            (
                v
                for d in (document, document.get("header"))
                if isinstance(d, dict)
                if isinstance(v := d.get("format_version"), int)
            ),
            default=FORMAT_VERSION,
        )
    except (ValueError, AttributeError, RecursionError):
        return
    if found > FORMAT_VERSION:
        raise FormatVersionError(
            "the store was written by a newer version of the format",
            where=where,
            found=f"format version {found}",
            allowed=f"format versions 1 to {FORMAT_VERSION}, which embedstore {version('embedstore')} reads",
            todo=f"install an embedstore that reads format version {found}: pip install --upgrade embedstore "
            "(`embedstore --version` says which format a release reads)",
        )


def read_plan(store: Path) -> Plan:
    """The plan of a store; `FormatVersionError` where it was written by a newer version."""
    path = layout.plan(store)
    text = read_bounded(layout.inside(store, path), CorruptStoreError)
    refuse_newer(text, where=path.name)
    return Plan.from_json(text, where=path.name, error=CorruptStoreError)


def create_store(
    store: Path,
    plan: Plan,
    *,
    images: Rows = (),
    texts: Rows = (),
    masks: Rows = (),
) -> bool:
    """Stream the tables to Parquet, then commit the plan; what a killed planning left is made again.

    Each takes Arrow batches, or rows as mappings, with the columns of `tables.SCHEMAS` in plan order.
    Where the store exists its plan must be equal (`MismatchError` lists the fields) and nothing is read
    from the iterables. Returns whether the store was made. A folder with foreign files is refused
    (`StoreError`).
    """
    try:
        _refuse_foreign(store)
        files.make_folder(store)
        for path, data in geometry.root_files().items():
            files.replace(store / path, data)
        counts = {
            "images": _write_table(store, "images", images),
            "texts": _write_table(store, "texts", texts),
            "masks": _write_table(store, "masks", masks),
        }
    except (FileExistsError, FileNotFoundError):
        # The store is there, or a process that was quicker has removed our temporary files.
        if not layout.plan(store).exists():
            raise
        _compare(store, plan)
        return False
    _check_counts(plan, counts)
    files.flush_folder(store)
    made = files.commit(layout.plan(store), plan.to_json().encode())
    _compare(store, plan)
    return made


def refuse_other_plan(store: Path, plan: Plan) -> None:
    """`MismatchError` naming the differing fields where a store of another plan is there."""
    if layout.plan(store).exists():
        _compare(store, plan)


def _compare(store: Path, plan: Plan) -> None:
    """Refuse another plan; with the same one, remove what killed plannings of it left."""
    refuse_differences(read_plan(store), plan, what="the plan", where=layout.PLAN, todo=_TODO)
    for left in layout.plan_leftovers(store):
        files.remove(left)


def _refuse_store(store: Path) -> None:
    """A table of an existing store is never touched, also when it came to be a moment ago."""
    if layout.plan(store).exists():
        raise FileExistsError(layout.PLAN)


def _refuse_foreign(store: Path) -> None:
    """A folder may be absent, empty, or hold what a killed planning left; nothing else is touched.

    Raises `FileExistsError` where it is a store.
    """
    if store.exists() and not store.is_dir():
        raise StoreError("the store path is a file", where=store.name, todo="choose another path")
    if not store.is_dir():
        return
    foreign = [p.name for p in store.iterdir() if p.name not in _OURS and not layout.is_temporary(p.name)]
    if layout.PLAN in foreign:
        raise FileExistsError(layout.PLAN)
    marked = not (store / layout.TABLES).exists() or (store / layout.ZARR).is_file()
    if foreign or not marked:
        raise StoreError(
            "the folder is not empty and holds no store",
            where=store.name,
            found=", ".join(sorted(foreign)[:5]) or layout.TABLES,
            todo="choose another path for the store",
        )


def _write_table(store: Path, table: str, rows: Rows) -> int:
    """Write the parts of one table and remove older ones beyond them; returns the number of rows."""
    groups = tables.row_groups(rows, table)
    count, number = 0, 0
    for group in groups:
        part = list(chain([group], islice(groups, tables.part_size(table) - 1)))
        count += sum(len(g) for g in part)
        _place(store, table, number, part)
        number += 1
    if number == 0 and table != "masks":
        _place(store, table, 0, [tables.SCHEMAS[table].empty_table()])
        number = 1
    _refuse_store(store)
    for old in layout.parts(store, table)[number:]:
        files.remove(old)
    folder = layout.table(store, table)
    if folder.is_dir():
        files.flush_folders([folder / "any"], store)
    return count


def _place(store: Path, table: str, number: int, groups: list[pa.Table]) -> None:
    final = layout.part(store, table, number)
    name = tables.write_file(final, table, groups)
    try:
        _refuse_store(store)
    except FileExistsError:
        name.unlink(missing_ok=True)
        raise
    files.rename(name, final)


def _check_counts(plan: Plan, counts: dict[str, int]) -> None:
    wanted = {"images": plan.images, "texts": plan.texts}
    found = {name: counts[name] for name in wanted}
    if found != wanted or bool(counts["masks"]) != plan.masks:
        raise StorageValueError(
            "the tables do not have the rows that the plan says",
            found=f"{counts}",
            allowed=f"{wanted}, masks: {plan.masks}",
        )
