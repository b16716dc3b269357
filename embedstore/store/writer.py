"""Write a feature unit by unit: files first, then the unit's record; any number of processes at once."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Self

from embedstore.documents import ShardFile, UnitRecord, refuse_differences
from embedstore.errors import DiskFullError, IncompleteError, MismatchError, StoreError, StoreNotFoundError
from embedstore.store import files, geometry, journal, layout, shard, space, tables
from embedstore.store.advice import make_again
from embedstore.store.create import read_plan
from embedstore.store.remote.cache_folder import is_mirrored
from embedstore.store.unit import conform_arrays, conform_thumbnails

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa

    from embedstore.documents import ArrayName, ArraySpec, FeatureHeader, FeatureManifest, QuarantinedRow
    from embedstore.shapes import AnyArray

_TODO = "give the options that it was begun with, or another name: NAME=SPEC, or --as NAME"


class FeatureWriter:
    """Writes the units of one feature. Holds at most the unit it is given; safe beside other writers.

    Every file of a unit is written under a temporary name, flushed and renamed; then the folders are
    flushed; last the record is created exclusively. What exists is whole. The record itself is not flushed: a
    loss of power may cost the last few, whose units are then made again. Units may be written by several
    threads at once: one then writes while another waits for the disk.
    """

    def __init__(self, store: Path, header: FeatureHeader) -> None:
        self.store, self.header = store, header
        self.path = layout.feature(store, header.name)
        self._fingerprint = header.fingerprint
        self._begun = False

    @classmethod
    def open(cls, store: Path, header: FeatureHeader) -> FeatureWriter:
        """Commit the header of a new feature, or find the same one there; also of a remote store's mirror.

        Raises `StoreNotFoundError` without a store, `MismatchError` naming the differing fields where the
        stored header is another one, or where the header was made for another plan.
        """
        if is_mirrored(store):
            from embedstore.store.remote.writer import RemoteWriter

            return RemoteWriter.begin(store, header)
        return cls._opened(store, header)

    @classmethod
    def _opened(cls, store: Path, header: FeatureHeader) -> Self:
        if not layout.plan(store).is_file():
            raise StoreNotFoundError("there is no store here", where=store.name, todo="plan the store first")
        if header.plan_fingerprint != read_plan(store).fingerprint:
            raise MismatchError("the header was made for another plan", where=header.name)
        writer = cls(store, header)
        files.commit(writer.path / layout.HEADER, header.to_json().encode())
        writer.refuse_other_header()
        # What two processes measured of one encoder may differ in the last digits: the first one's stands.
        writer.header = journal.read_header(writer.path)
        writer._describe()
        if writer._complete():
            writer._tidy()
        return writer

    def refuse_other_header(self) -> None:
        """`MismatchError` naming the differing fields where another feature of this name is stored."""
        if (self.path / layout.HEADER).is_file():
            stored = journal.read_header(self.path)
            refuse_differences(stored, self.header, what="the feature", where=self.header.name, todo=_TODO)

    def _describe(self) -> None:
        """Write the Zarr metadata where it is missing or cut short."""
        for relative, data in geometry.feature_files(self.header).items():
            path = self.path / relative
            if not path.is_file() or path.read_bytes() != data:
                files.replace(path, data)
        files.flush_folder(self.path)
        files.flush_folder(self.path.parent)

    def _complete(self) -> bool:
        return (self.path / layout.MANIFEST).is_file()

    def missing_units(self) -> list[int]:
        """Units without a record that agrees with its files, ascending; empty for a complete feature."""
        if self._complete():
            return []
        missing = [
            unit
            for unit in range(self.header.units)
            if not journal.is_done(self.path, self.header, self._fingerprint, unit)
        ]
        # Another process may have finished the feature, and removed its records, during the look.
        return [] if self._complete() else missing

    def write_unit(
        self,
        unit: int,
        arrays: Mapping[ArrayName, AnyArray],
        *,
        quarantined: Sequence[QuarantinedRow] = (),
        thumbnails: Sequence[bytes | None] | None = None,
    ) -> UnitRecord:
        """Write every file of a unit, then its record; returns the record that stands.

        `arrays`: images `tokens (r, t, d)`, `prefix (r, p, d)` where the header has it, `pooled (r, w)`;
        texts `tokens (sum(lengths), d)` back to back, `lengths (r,)` integer, `pooled (r, w)`; floats in
        the stored dtype or float32. `status` is made here. Quarantined rows are stored as NaN (texts:
        length 0). `thumbnails`: one JPEG or none a row, where the header keeps them. A unit that is done
        is left alone. Raises `StorageValueError` for wrong shapes, dtypes, NaN, infinity or overflow, and
        `DiskFullError` with the space that is missing and the policy that would fit.
        """
        ready = conform_arrays(self.header, unit, arrays, quarantined)
        jpegs = conform_thumbnails(self.header, unit, thumbnails)
        try:
            return self._write(unit, ready, tuple(quarantined), jpegs)
        except DiskFullError as bad:
            lengths = ready.get("lengths")
            tokens = float(lengths.mean()) if lengths is not None and len(lengths) else 0.0
            raise space.disk_full(
                self.store, self.header, missing=self.missing_units(), tokens_per_row=tokens
            ) from bad
        except FileNotFoundError:
            # The one reason for which our temporary file may vanish: the unit is done by somebody else.
            standing = self._standing(unit)
            if standing is None:
                raise
            return standing

    def _write(
        self,
        unit: int,
        ready: Mapping[ArrayName, AnyArray],
        quarantined: tuple[QuarantinedRow, ...],
        jpegs: pa.Table | None,
    ) -> UnitRecord:
        standing = self._standing(unit)
        if standing is not None:
            return standing
        made = self._write_files(unit, ready, jpegs)
        rows = self.header.unit_rows(unit)
        lengths = ready.get("lengths")
        record = UnitRecord(
            unit=unit,
            rows=(rows.start, rows.stop),
            header_fingerprint=self._fingerprint,
            files=tuple(file for _, file in made),
            tokens=int(lengths.sum()) if lengths is not None else self._image_tokens(len(rows)),
            quarantined=quarantined,
        )
        standing = self._standing(unit)
        if standing is not None:
            for name, _ in made:
                files.remove(name)
            return standing
        for name, file in made:
            files.rename(name, self.path / file.path)
        placed = [self.path / file.path for _, file in made]
        files.flush_folders(placed, self.path, upper=not self._begun)
        self._begun = True
        return self._record(record)

    def _write_files(
        self, unit: int, ready: Mapping[ArrayName, AnyArray], jpegs: pa.Table | None
    ) -> list[tuple[Path, ShardFile]]:
        """Every file of a unit under its temporary name; none is left where one of them fails."""
        made: list[tuple[Path, ShardFile]] = []
        try:
            for spec in self.header.arrays:
                made.append(self._write_shard(unit, spec, ready[spec.name]))  # noqa: PERF401 - kept on failure
            if jpegs is not None:
                made.append(self._write_thumbnails(unit, jpegs))
            files.flush_files([name for name, _ in made])
        except Exception:
            for name, _ in made:
                name.unlink(missing_ok=True)
            raise
        return made

    def _image_tokens(self, rows: int) -> int:
        tokens = self.header.array("tokens")
        return rows * tokens.shape[1] if tokens is not None else 0

    def _write_shard(self, unit: int, spec: ArraySpec, data: AnyArray) -> tuple[Path, ShardFile]:
        path = layout.shard(spec.name, unit, len(spec.shape))
        name, made = shard.write(
            self.path / path, data, places=spec.shard, chunk=spec.chunk, fill=geometry.fill_value(spec)
        )
        return name, ShardFile(
            path=path, nbytes=made.nbytes, crc32c=made.crc32c, index_crc32c=made.index_crc32c
        )

    def _write_thumbnails(self, unit: int, jpegs: pa.Table) -> tuple[Path, ShardFile]:
        path = layout.thumbnails(unit)
        name = tables.write_file(self.path / path, "thumbnails", [jpegs], flush=False)
        return name, ShardFile(path=path, nbytes=name.stat().st_size, crc32c=shard.file_crc(name))

    def _standing(self, unit: int) -> UnitRecord | None:
        """The record of a unit that is done already, also by a process that finished the feature."""
        if journal.is_done(self.path, self.header, self._fingerprint, unit):
            return journal.read_record(self.path, unit)
        if self._complete():
            return next(r for r in journal.consolidated(self.path, self.header) if r.unit == unit)
        return None

    def _record(self, record: UnitRecord) -> UnitRecord:
        """Create the record; one that is there and differs is of files which ours have just replaced."""
        final = layout.record(self.path, record.unit)
        if not files.commit(final, record.to_json().encode(), flush=False):
            stored = journal.read_record(self.path, record.unit)
            if stored != record:
                files.replace(final, record.to_json().encode())
        return record

    def quarantined(self) -> int:
        """Rows quarantined in the units that are done so far."""
        manifest = journal.read_manifest(self.path)
        if manifest is not None:
            return manifest.quarantined
        records = (journal.read_record(self.path, int(p.stem)) for p in layout.records(self.path))
        return sum(len(r.quarantined) for r in records if r is not None)

    def finish(self) -> FeatureManifest:
        """Consolidate the records and write the manifest; the same from any process, at any time.

        Raises `IncompleteError` where units are missing.
        """
        manifest = journal.read_manifest(self.path)
        if manifest is None:
            missing = self.missing_units()
            try:
                self._consolidate(missing)
            except FileNotFoundError:
                if not self._complete():
                    raise
            manifest = journal.read_manifest(self.path)
        if manifest is None:
            raise StoreError("the manifest vanished while it was written", where=self.header.name)
        self._tidy()
        return manifest

    def _consolidate(self, missing: list[int]) -> None:
        if self._complete():
            return
        records = [] if missing else [journal.read_record(self.path, u) for u in range(self.header.units)]
        whole = [r for r in records if r is not None]
        if len(whole) != self.header.units:
            if self._complete():
                return
            raise IncompleteError(
                "the feature is not complete",
                where=self.header.name,
                found=f"{self.header.units - len(missing)} of {self.header.units} units",
                todo=make_again(self.store, self.header),
            )
        for name, table in (
            ("units", journal.units_table(whole)),
            ("quarantine", journal.quarantine_table(whole)),
        ):
            final = self.path / {"units": layout.UNITS_TABLE, "quarantine": layout.QUARANTINE}[name]
            files.rename(tables.write_file(final, name, [table]), final)
        files.flush_folder(self.path)
        files.commit(self.path / layout.MANIFEST, journal.manifest(self.header, whole).to_json().encode())

    def _tidy(self) -> None:
        """Remove the records, which the tables hold now, and what killed writers left."""
        for path in (*layout.records(self.path), *layout.leftovers(self.path)):
            files.remove(path)
        # Gone already, or in use by a writer that comes late: that one will tidy after itself.
        with suppress(OSError):
            (self.path / layout.UNITS).rmdir()
        files.flush_folder(self.path)
