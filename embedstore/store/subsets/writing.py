"""Make and remove subsets: the Parquet files first, the card last, so that what has a card is whole."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedstore.documents import SubsetCard, SubsetFile
from embedstore.errors import StoreError, UsageError
from embedstore.store import files, layout, tables
from embedstore.store.ids import ids_at, shown
from embedstore.store.reader import Store, open_store
from embedstore.store.remote.cache_folder import is_mirrored, own_folder, remove_own
from embedstore.store.remote.mirror import mirror_of
from embedstore.store.subsets.reading import checksum, open_subset

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from os import PathLike
    from pathlib import Path

    from embedstore.documents import Setting, SubsetParent, Table
    from embedstore.shapes import IntArray
    from embedstore.store.subsets.reading import Subset


def create_subset(
    store: Store | str | PathLike[str],
    name: str,
    kept: pa.Table | Mapping[str, Any],
    *,
    table: Table = "images",
    dropped: pa.Table | Mapping[str, Any] | None = None,
    verb: str = "rows",
    settings: Mapping[str, Setting | tuple[Setting, ...]] | None = None,
    parents: Sequence[SubsetParent] = (),
    counts: Mapping[str, int] | None = None,
    overwrite: bool = False,
) -> Subset:
    """Write a named choice of rows of one table into the store; nothing of the store is copied or changed.

    `kept`: columns of one length, in any row order: `row` (of this store) or `id` or both, and any of
    `reason`, `concept`, `rank`, `score`, `twin`, `parent`. `dropped`: the same for rows that were left out
    and are worth telling of, no row in both. `verb`, `settings` and `parents` say how the choice came to be;
    no path may be among them. Of `A+B` the subset lies in the first store.

    Raises `UsageError` for a name that is taken (unless `overwrite`), rows or ids that are not there, that
    come twice, or that do not belong together, and for a store that can only be read.
    """
    opened = store if isinstance(store, Store) else open_store(store)
    home = opened.parts[0].path
    layout.subset(home, name)
    lines = _lines(opened, kept, table)
    left = _lines(opened, dropped, table) if dropped is not None else tables.SUBSET.empty_table()
    both = np.intersect1d(lines["row"].to_numpy(), left["row"].to_numpy(), assume_unique=True)
    if len(both):
        raise UsageError(
            f"{len(both)} rows are both kept and dropped",
            where=f"subset {name}",
            found=shown(ids_at(opened, table, both[:6]).to_pylist()),
        )
    with _place(home, name, overwrite=overwrite) as here:
        made = {layout.SUBSET_ROWS: _write(here / layout.SUBSET_ROWS, lines)}
        if len(left):
            made[layout.SUBSET_DROPPED] = _write(here / layout.SUBSET_DROPPED, left)
        sums = {file: SubsetFile(nbytes=n, crc32c=c) for file, (_, n, c) in made.items()}
        card = SubsetCard(
            name=name,
            table=table,
            store_fingerprint=opened.fingerprint,
            stores=tuple(p.fingerprint for p in opened.parts) if len(opened.parts) > 1 else (),
            verb=verb,
            settings=dict(settings or {}),
            parents=tuple(parents),
            kept=len(lines),
            dropped=len(left),
            counts=dict(counts or {}),
            columns=tuple(c for c in tables.SUBSET.names[2:] if _holds(lines, c) or _holds(left, c)),
            rows_file=sums[layout.SUBSET_ROWS],
            dropped_file=sums.get(layout.SUBSET_DROPPED),
        )
        publish = _publish if here == layout.subset(home, name) else _upload
        publish(home, {file: path for file, (path, _, _) in made.items()}, card)
    return open_subset(opened, name)


def refuse_subset(store: Store, name: str, *, overwrite: bool = False) -> None:
    """What `create_subset` would refuse before any work is done: a bad or taken name, a read-only store."""
    home = store.parts[0].path
    layout.subset(home, name)
    if is_mirrored(home):
        mirror_of(home).remote.refuse_read_only("making a subset")
    _refuse_taken(name, overwrite=overwrite, taken=name in layout.subset_names(home))


def remove_subset(store: Store | str | PathLike[str], name: str) -> None:
    """Take a subset out of the store that it lies in; `StoreError` for an unknown name.

    Of `A+B` all that have the name.
    """
    opened = store if isinstance(store, Store) else open_store(store)
    open_subset(opened, name)
    for part in opened.parts:
        if name not in layout.subset_names(part.path):
            continue
        folder = layout.subset(part.path, name)
        if is_mirrored(part.path):
            mirror = mirror_of(part.path)
            mirror.remote.refuse_read_only("removing a subset")
            there, _ = mirror.remote.listing(f"{layout.SUBSETS}/{name}")
            for file in (layout.SUBSET_CARD, layout.SUBSET_ROWS, layout.SUBSET_DROPPED):
                if file in there:
                    mirror.remote.remove(f"{layout.SUBSETS}/{name}/{file}")
        else:
            files.remove(folder / layout.SUBSET_CARD)
            files.flush_folder(folder)
        shutil.rmtree(folder)


@contextmanager
def _place(store: Path, name: str, *, overwrite: bool) -> Iterator[Path]:
    """The folder in which the files are made: the subset's own, or of a remote store one of this process."""
    if is_mirrored(store):
        remote = mirror_of(store).remote
        remote.refuse_read_only("making a subset")
        there, _ = remote.listing(f"{layout.SUBSETS}/{name}")
        _refuse_taken(name, overwrite=overwrite, taken=layout.SUBSET_CARD in there)
        folder = own_folder()
        try:
            yield folder
        finally:
            remove_own(folder)
        return
    folder = layout.subset(store, name)
    with files.alone(folder):
        _refuse_taken(name, overwrite=overwrite, taken=(folder / layout.SUBSET_CARD).exists())
        yield folder


def _refuse_taken(name: str, *, overwrite: bool, taken: bool) -> None:
    if taken and not overwrite:
        raise UsageError(
            f"there is a subset {name!r} already", todo="choose another name, or replace it with --overwrite"
        )


def _publish(store: Path, made: Mapping[str, Path], card: SubsetCard) -> None:
    """Give the finished files their names, the card last; the card of an older subset goes first."""
    folder = layout.subset(store, card.name)
    files.remove(folder / layout.SUBSET_CARD)
    files.flush_folder(folder)
    for file in (layout.SUBSET_ROWS, layout.SUBSET_DROPPED):
        if file in made:
            files.rename(made[file], folder / file)
        else:
            files.remove(folder / file)
    files.flush_folders([folder / layout.SUBSET_CARD], store)
    files.commit(folder / layout.SUBSET_CARD, card.to_json().encode())


def _upload(store: Path, made: Mapping[str, Path], card: SubsetCard) -> None:
    """The same at a URL, by way of which nobody waits for another: of two at once one is told so."""
    mirror, folder = mirror_of(store), f"{layout.SUBSETS}/{card.name}"
    there, _ = mirror.remote.listing(folder)
    for file in (layout.SUBSET_CARD, layout.SUBSET_DROPPED):
        if file in there:
            mirror.remote.remove(f"{folder}/{file}")
    for file in (layout.SUBSET_ROWS, layout.SUBSET_DROPPED):
        if file in made:
            mirror.remote.upload(f"{folder}/{file}", made[file])
    if not mirror.remote.put(f"{folder}/{layout.SUBSET_CARD}", card.to_json().encode(), create=True):
        raise StoreError(
            "another process has just made this subset", where=card.name, todo="choose another name"
        )
    mirror.sync_subset(card.name)


def _write(final: Path, lines: pa.Table) -> tuple[Path, int, int]:
    """A finished file under its temporary name, its bytes and their crc32c."""
    made = tables.write_file(final, "subset", tables.row_groups([lines], "subset"))
    return made, *checksum(made, final.name)


def _holds(lines: pa.Table, column: str) -> bool:
    return bool(lines[column].null_count < len(lines))


def _lines(store: Store, given: pa.Table | Mapping[str, Any], table: Table) -> pa.Table:
    """The published columns in row order, ids filled in and compared."""
    columns = _columns(given)
    rows = _rows(store, columns, table)
    order = np.argsort(rows, kind="stable")
    rows = rows[order]
    twice = rows[1:][np.diff(rows) == 0]
    if len(twice):
        raise UsageError(
            f"{len(np.unique(twice))} rows come more than once",
            found=shown(ids_at(store, table, np.unique(twice)[:6]).to_pylist()),
            allowed="each row once",
        )
    ids = ids_at(store, table, rows)
    if "row" in columns and "id" in columns:
        _refuse_other_ids(ids, columns["id"].take(order))
    done = {"row": pa.array(rows, pa.int64()), "id": ids}
    for field in tables.SUBSET:
        if field.name not in done:
            old = columns.get(field.name)
            done[field.name] = pa.nulls(len(rows), field.type) if old is None else old.take(order)
    return pa.table(done, schema=tables.SUBSET)


def _columns(given: pa.Table | Mapping[str, Any]) -> dict[str, pa.Array[Any] | pa.ChunkedArray[Any]]:
    """Columns of the published types; `UsageError` for others."""
    names = given.column_names if isinstance(given, pa.Table) else list(given)
    unknown = [n for n in names if n not in tables.SUBSET.names]
    if unknown or not {"row", "id"} & set(names):
        raise UsageError(
            "these are not the columns of a subset",
            found=", ".join(names) or "none",
            allowed="row or id or both, and any of " + ", ".join(tables.SUBSET.names[2:]),
        )
    found = {}
    for name in names:
        kind = tables.SUBSET.field(name).type
        try:
            column = given[name] if isinstance(given[name], pa.ChunkedArray) else pa.array(given[name])
            found[name] = column.cast(kind)
        except (pa.ArrowException, TypeError, ValueError) as bad:
            raise UsageError(f"the column {name!r} is not {kind}", found=str(bad)[:200]) from None
    lengths = {name: len(column) for name, column in found.items()}
    if len(set(lengths.values())) > 1:
        raise UsageError("columns of different lengths", found=lengths)
    gaps = [n for n in ("row", "id") if n in found and found[n].null_count]
    score = found.get("score")
    if gaps or (score is not None and not _all(pc.is_finite(score.drop_null()))):
        raise UsageError(
            "a column holds what it may not",
            where=gaps[0] if gaps else "score",
            found="null, NaN or infinity",
        )
    return found


def _rows(store: Store, columns: Mapping[str, Any], table: Table) -> IntArray:
    if "row" not in columns:
        return store.rows_of(columns["id"].to_pylist(), table)
    rows: IntArray = (
        columns["row"].to_numpy(zero_copy_only=False) if len(columns["row"]) else np.empty(0, int)
    )
    most = store.plan.images if table == "images" else store.plan.texts
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < most:
        raise UsageError(
            f"rows outside the table {table!r}",
            found=f"{rows.min()} to {rows.max()}",
            allowed=f"0 to {most - 1}" if most else "none: the table is empty",
        )
    return rows


def _refuse_other_ids(ids: pa.Array[Any], given: pa.Array[Any] | pa.ChunkedArray[Any]) -> None:
    same = pc.equal(ids, given)
    if not _all(same):
        at = int(np.flatnonzero(~np.asarray(same))[0])
        raise UsageError(
            "an id is not that of its row", found=repr(given[at].as_py()), allowed=repr(ids[at].as_py())
        )


def _all(flags: pa.Array[Any] | pa.ChunkedArray[Any]) -> bool:
    return bool(pc.all(flags, min_count=0).as_py())
