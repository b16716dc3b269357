"""Unit records: which units of a feature are done, and what a finished feature makes of them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pyarrow as pa

from embedstore.documents import (
    FeatureHeader,
    FeatureManifest,
    QuarantinedRow,
    ShardFile,
    UnitRecord,
    load_document,
    read_bounded,
)
from embedstore.errors import CorruptStoreError, EmbedstoreError, StoreError
from embedstore.store import geometry, layout, shard, tables
from embedstore.store.create import refuse_newer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


def read_header(feature: Path) -> FeatureHeader:
    """The header of a feature; `FormatVersionError` where a newer version wrote it."""
    path = feature / layout.HEADER
    text = read_bounded(layout.inside(layout.store_of(feature), path), CorruptStoreError)
    where = f"{feature.name}/{path.name}"
    refuse_newer(text, where=where)
    return FeatureHeader.from_json(text, where=where, error=CorruptStoreError)


def read_manifest(feature: Path) -> FeatureManifest | None:
    """The manifest of a complete feature, none of one that is not; raises as `read_header` does."""
    path = feature / layout.MANIFEST
    if not path.is_file():
        return None
    text = read_bounded(layout.inside(layout.store_of(feature), path), CorruptStoreError)
    where = f"{feature.name}/{path.name}"
    refuse_newer(text, where=where)
    return FeatureManifest.from_json(text, where=where, error=CorruptStoreError)


def read_record(feature: Path, unit: int) -> UnitRecord | None:
    """The record of a unit, none where it is absent or cut short."""
    try:
        return load_document(UnitRecord, layout.record(feature, unit))
    except EmbedstoreError:
        return None


def fits(header: FeatureHeader, fingerprint: str, record: UnitRecord, unit: int) -> bool:
    """Whether a record is of this unit of this feature and names exactly its files."""
    rows = header.unit_rows(unit)
    return (
        record.unit == unit
        and record.rows == (rows.start, rows.stop)
        and record.header_fingerprint == fingerprint
        and tuple(f.path for f in record.files) == geometry.unit_paths(header, unit)
        and all(q.row in rows for q in record.quarantined)
    )


def agrees(feature: Path, file: ShardFile) -> bool:
    """Whether a file has the recorded size and, for a shard, the recorded index checksum at its end."""
    path = feature / file.path
    try:
        if path.stat().st_size != file.nbytes:
            return False
        return file.index_crc32c is None or shard.stored_index_crc(path) == file.index_crc32c
    except OSError:
        return False


def is_done(feature: Path, header: FeatureHeader, fingerprint: str, unit: int) -> bool:
    """Whether a unit's record exists, is of this feature, and agrees with its files."""
    record = read_record(feature, unit)
    return (
        record is not None
        and fits(header, fingerprint, record, unit)
        and all(agrees(feature, f) for f in record.files)
    )


def begun_headers(store: Path) -> dict[str, FeatureHeader]:
    """The header of every feature of a store, complete or begun; empty where there is no store yet."""
    return {name: read_header(layout.feature(store, name)) for name in layout.feature_names(store)}


def zarr_files(store: Path) -> dict[str, bytes]:
    """Every `zarr.json` that a store should have: path relative to it, bytes; unreadable headers left out."""
    wanted = geometry.root_files()
    for name in layout.feature_names(store):
        try:
            header = read_header(layout.feature(store, name))
        except StoreError:
            continue
        folder = f"{layout.FEATURES}/{name}"
        wanted |= {f"{folder}/{path}": data for path, data in geometry.feature_files(header).items()}
    return wanted


def units_table(records: Iterable[UnitRecord]) -> pa.Table:
    """The records of a finished feature as one table, one line a file."""
    lines = [
        {
            "unit": r.unit,
            "first": r.rows[0],
            "stop": r.rows[1],
            "tokens": r.tokens,
            "path": f.path,
            "nbytes": f.nbytes,
            "crc32c": f.crc32c,
            "index_crc32c": f.index_crc32c,
        }
        for r in records
        for f in r.files
    ]
    return pa.Table.from_pylist(lines, schema=tables.UNITS)


def quarantine_table(records: Iterable[UnitRecord]) -> pa.Table:
    """The quarantined rows of a finished feature."""
    lines = [q.model_dump() for r in records for q in r.quarantined]
    return pa.Table.from_pylist(lines, schema=tables.QUARANTINE)


def manifest(header: FeatureHeader, records: list[UnitRecord]) -> FeatureManifest:
    """The sums over all records; a pure function of them."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(record.to_json().encode())
    return FeatureManifest(
        header=header,
        quarantined=sum(len(r.quarantined) for r in records),
        tokens=sum(r.tokens for r in records),
        nbytes=sum(f.nbytes for r in records for f in r.files),
        units_sha256=digest.hexdigest(),
    )


def consolidated(feature: Path, header: FeatureHeader) -> Iterator[UnitRecord]:
    """The records of a complete feature again, from its two tables."""
    quarantined: dict[int, list[QuarantinedRow]] = {}
    for line in tables.read_file(layout.of_feature(feature, layout.QUARANTINE), "quarantine").to_pylist():
        quarantined.setdefault(line["row"] // header.shard_rows, []).append(QuarantinedRow(**line))
    by_unit: dict[int, list[dict[str, int | str]]] = {}
    for line in tables.read_file(layout.of_feature(feature, layout.UNITS_TABLE), "units").to_pylist():
        by_unit.setdefault(line["unit"], []).append(line)
    fingerprint = header.fingerprint
    for unit, lines in sorted(by_unit.items()):
        parts = [ShardFile.model_validate({k: x[k] for k in ShardFile.model_fields}) for x in lines]
        yield UnitRecord.model_validate(
            {
                "unit": unit,
                "rows": (lines[0]["first"], lines[0]["stop"]),
                "header_fingerprint": fingerprint,
                "files": tuple(parts),
                "tokens": lines[0]["tokens"],
                "quarantined": tuple(quarantined.get(unit, [])),
            }
        )
