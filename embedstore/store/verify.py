"""Check everything a store promises: tables, headers, records, sizes, checksums, status, leftovers."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import CorruptStoreError, StoreError
from embedstore.store import geometry, journal, layout, shard
from embedstore.store.chunks import ShardedArray
from embedstore.store.coder import Coder, whole_rows
from embedstore.store.reader import Store, open_store
from embedstore.store.repair import repair_store
from embedstore.store.report import Finding, VerifyReport
from embedstore.store.verify_tables import check_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from os import PathLike
    from pathlib import Path

    from embedstore.documents import ArrayName, ArraySpec, FeatureHeader, ShardFile, UnitRecord
    from embedstore.shapes import AnyArray

_STEP_BYTES = 64 << 20


def verify_store(
    path: str | PathLike[str],
    *,
    repair: bool = False,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> VerifyReport:
    """Read every byte of a store and say what does not agree.

    `repair` removes temporary files, writes damaged Zarr metadata again, and takes damaged units out of the
    journal, so that the same encode makes just these again; do it while nobody writes to the store.
    `on_progress(feature, units done, units)`. Raises as `open_store` does where there is no readable plan.
    """
    store = open_store(path)
    check = _Check(store, on_progress or (lambda *_: None))
    findings = (*check_tables(store), *check.metadata(), *check.features(), *_leftovers(store.path))
    done, remaining = (
        repair_store(store, findings) if repair else ([], [f for f in findings if f.kind == "corrupt"])
    )
    return VerifyReport(
        features=len(store.features()),
        units=check.units,
        files=check.files,
        nbytes=check.nbytes,
        findings=findings,
        repaired=tuple(done),
        remaining=len(remaining),
    )


def _leftovers(store: Path) -> Iterator[Finding]:
    for path in layout.leftovers(store):
        where = path.relative_to(store).as_posix()
        yield Finding(kind="leftover", where=where, problem="a temporary file of a writer that was stopped")


class _Check:
    """One pass over a store; counts what it read."""

    def __init__(self, store: Store, on_progress: Callable[[str, int, int], None]) -> None:
        self.store, self._on_progress = store, on_progress
        self.units = self.files = self.nbytes = 0

    def metadata(self) -> Iterator[Finding]:
        """The `zarr.json` of every group and array must be what plan and header give."""
        for relative, data in journal.zarr_files(self.store.path).items():
            path = self.store.path / relative
            if not path.is_file() or path.read_bytes() != data:
                yield Finding(
                    kind="corrupt",
                    where=relative,
                    problem="the Zarr metadata is missing or differs from the header",
                )

    def features(self) -> Iterator[Finding]:
        """Every feature, complete or begun."""
        for name in self.store.features():
            try:
                yield from self._feature(name)
            except StoreError as bad:
                yield Finding(
                    kind="corrupt", where=f"{layout.FEATURES}/{name}", problem=str(bad), feature=name
                )

    def _feature(self, name: str) -> Iterator[Finding]:
        folder = layout.feature(self.store.path, name)
        header = journal.read_header(folder)
        where = f"{layout.FEATURES}/{name}"
        if header.name != name:
            yield Finding(
                kind="corrupt", where=where, problem=f"the header is of {header.name!r}", feature=name
            )
            return
        geometry.check_header(header, self.store.plan)
        yield from self._calibration(folder, header)
        manifest = journal.read_manifest(folder)
        if manifest is None:
            yield from self._begun(folder, header)
            return
        records = list(journal.consolidated(folder, header))
        if manifest != journal.manifest(header, records) or len(records) != header.units:
            yield Finding(
                kind="corrupt",
                where=where,
                problem="the manifest does not agree with the unit tables",
                feature=name,
            )
            return
        for record in records:
            yield from self._unit(folder, header, record)

    def _calibration(self, folder: Path, header: FeatureHeader) -> Iterator[Finding]:
        """Without what its policy has learnt, a feature cannot be decoded; nothing here can make it again."""
        try:
            Coder.read(folder, header)
        except CorruptStoreError as bad:
            where = f"{layout.FEATURES}/{header.name}/{layout.CALIBRATION}"
            yield Finding(kind="corrupt", where=where, problem=bad.problem)

    def _begun(self, folder: Path, header: FeatureHeader) -> Iterator[Finding]:
        done = 0
        for path in layout.records(folder):
            unit = int(path.stem)
            record = journal.read_record(folder, unit)
            if record is None or unit >= header.units:
                yield self._damaged(header, unit, f"{layout.UNITS}/{path.name}", "the record cannot be used")
                continue
            done += 1
            yield from self._unit(folder, header, record)
        yield Finding(
            kind="incomplete",
            where=f"{layout.FEATURES}/{header.name}",
            problem=f"{done} of {header.units} units are done: run the same encode command again",
            feature=header.name,
        )

    def _damaged(self, header: FeatureHeader, unit: int, path: str, problem: str) -> Finding:
        where = f"{layout.FEATURES}/{header.name}/{path}"
        return Finding(kind="corrupt", where=where, problem=problem, feature=header.name, unit=unit)

    def _unit(self, folder: Path, header: FeatureHeader, record: UnitRecord) -> Iterator[Finding]:
        self.units += 1
        self._on_progress(header.name, record.unit + 1, header.units)
        if not journal.fits(header, header.fingerprint, record, record.unit):
            yield self._damaged(
                header,
                record.unit,
                layout.record(folder, record.unit).name,
                "the record is of another feature",
            )
            return
        whole = True
        for file, spec in itertools.zip_longest(record.files, header.arrays):
            problem = self._file(folder, file) or self._chunks(folder, header, record, spec)
            if problem:
                whole = False
                yield self._damaged(header, record.unit, file.path, problem)
        if whole:
            for path, problem in self._rows(folder, header, record):
                yield self._damaged(header, record.unit, path, problem)

    def _file(self, folder: Path, file: ShardFile) -> str | None:
        path = folder / file.path
        if not path.is_file() or path.is_symlink():
            return "the file is missing"
        self.files += 1
        size = path.stat().st_size
        self.nbytes += size
        if size != file.nbytes:
            return f"{size} bytes, the record says {file.nbytes}"
        if file.index_crc32c is not None and shard.stored_index_crc(path) != file.index_crc32c:
            return "the index checksum is not the recorded one"
        return None if file.index_crc32c is not None or shard.file_crc(path) == file.crc32c else _CHANGED

    def _chunks(
        self, folder: Path, header: FeatureHeader, record: UnitRecord, spec: ArraySpec | None
    ) -> str | None:
        """Every chunk's own checksum, to name the rows; then the checksum of the whole file."""
        if spec is None:
            return None
        array = ShardedArray(folder, spec, verify="always")
        used = geometry.unit_shape(header, spec, record.unit, tokens=record.tokens)[0]
        first = record.unit * spec.shard
        step = max(1, _STEP_BYTES // max(1, array.place_bytes * spec.chunk)) * spec.chunk
        try:
            for at in range(0, used, step):
                array.read(first + at, first + min(used, at + step))
        except CorruptStoreError as bad:
            return f"{bad.problem}: {bad.found}" if bad.found else bad.problem
        file = next(
            f for f in record.files if f.path == layout.shard(spec.name, record.unit, len(spec.shape))
        )
        return None if shard.file_crc(folder / file.path) == file.crc32c else _CHANGED

    def _rows(self, folder: Path, header: FeatureHeader, record: UnitRecord) -> Iterator[tuple[str, str]]:
        """Status, quarantine, lengths and embeddings of one unit must tell the same story."""
        start, stop = record.rows

        def read(spec: ArraySpec) -> AnyArray:
            return ShardedArray(folder, spec, verify="never").read(start, stop)

        status = read(_spec(header, "status"))
        listed = np.zeros(stop - start, np.uint8)
        listed[[q.row - start for q in record.quarantined]] = 1
        path = layout.shard("status", record.unit, 1)
        if not np.array_equal(status, listed):
            yield path, "status and quarantine do not agree"
        for lost in self._misnamed(header, record):
            yield path, lost
        pooled: dict[ArrayName, AnyArray] = {
            a.name: read(a) for a in header.arrays if a.name in ("pooled", "pooled_scales")
        }
        finite = whole_rows(header, pooled)
        if not np.array_equal(finite, listed == 0):
            yield layout.shard("pooled", record.unit, 2), "rows without numbers are not the quarantined ones"
        if header.array("lengths") is not None:
            lengths = read(_spec(header, "lengths"))
            if int(lengths.sum()) != record.tokens or lengths[listed == 1].any() or (lengths < 0).any():
                yield layout.shard("lengths", record.unit, 1), "lengths do not add up to the unit's tokens"

    def _misnamed(self, header: FeatureHeader, record: UnitRecord) -> Iterator[str]:
        if record.quarantined:
            table = self.store.images(["id"]) if header.table == "images" else self.store.texts(["id"])
            for q in record.quarantined:
                if table["id"][q.row].as_py() != q.id:
                    yield f"quarantined row {q.row} has the id {q.id!r}, the table says otherwise"


_CHANGED = "the bytes are not the recorded ones"


def _spec(header: FeatureHeader, name: str) -> ArraySpec:
    return next(a for a in header.arrays if a.name == name)
