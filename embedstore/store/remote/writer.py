"""Write a feature of a remote store: every unit here first, then its files as objects, and last its record.

An object is there whole or not at all, so the order of docs/format.md holds: calibration and header, for each
unit its files and then its record, the tables of all records, the manifest. Nothing remote is believed but by
its record and the sizes that a listing gives. What is uploaded of a unit is removed here.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from embedstore.documents import FeatureHeader, UnitRecord, refuse_differences
from embedstore.documents.base import MOST_DOCUMENT_BYTES
from embedstore.errors import EmbedstoreError, MismatchError
from embedstore.store import files, geometry, journal, layout
from embedstore.store.failpoints import effect
from embedstore.store.remote.mirror import mirror_of, own_mirror
from embedstore.store.writer import FeatureWriter

if TYPE_CHECKING:
    from pathlib import Path

    from embedstore.store.remote.mirror import Mirror

_UPLOADS = 4
_TODO = "give the options that it was begun with, or another name: NAME=SPEC, or --as NAME"


class RemoteWriter(FeatureWriter):
    """Writes the units of one feature of a remote store, by way of a folder of this process alone.

    Several processes may write one feature at once: who comes second to a unit discards its own.
    """

    def __init__(self, store: Path, header: FeatureHeader) -> None:
        super().__init__(store, header)
        self._mirror: Mirror = mirror_of(store)
        self._remote = self._mirror.remote
        self._folder = f"{layout.FEATURES}/{header.name}"
        self._uploaded: set[int] = set()

    @classmethod
    def begin(cls, store: Path, header: FeatureHeader) -> RemoteWriter:
        """Commit the header of a new feature of the store that `store` mirrors, or find the same one."""
        read = mirror_of(store)
        read.remote.refuse_read_only("this command")
        mirror = read if read.own else own_mirror(read.remote.url)
        learnt = layout.feature(store, header.name) / layout.CALIBRATION
        if mirror is not read and header.calibration_sha256 is not None and learnt.is_file():
            files.commit(layout.feature(mirror.root, header.name) / layout.CALIBRATION, learnt.read_bytes())
        writer = cls._opened(mirror.root, header)
        writer._publish()
        return writer

    def _publish(self) -> None:
        """Have calibration, header and Zarr metadata there, in this order, as they are here."""
        if self._complete():
            return
        calibration = self.path / layout.CALIBRATION
        if calibration.is_file():
            self._create(layout.CALIBRATION, calibration.read_bytes())
        self._create(layout.HEADER, self.header.to_json().encode())
        for relative, data in geometry.feature_files(self.header).items():
            self._remote.put(f"{self._folder}/{relative}", data)

    def _create(self, name: str, data: bytes) -> None:
        """Make a document, or find the same one; `MismatchError` for another one."""
        whole = f"{self._folder}/{name}"
        if self._remote.put(whole, data, create=True):
            return
        there = self._remote.read(whole, most=MOST_DOCUMENT_BYTES)
        if there == data:
            return
        if name == layout.HEADER and there is not None:
            stored = FeatureHeader.from_json(there, where=whole)
            refuse_differences(stored, self.header, what="the feature", where=whole, todo=_TODO)
            # As where two processes begin a feature here: what the first one measured stands.
            files.replace(self.path / name, there)
            self.header = stored
        else:
            raise MismatchError(
                "another process has just begun this feature otherwise", where=whole, todo=_TODO
            )

    def missing_units(self) -> list[int]:
        """Units without a record there that agrees with the sizes of their files, ascending."""
        if self._complete():
            return []
        listed = self._remote.sizes(self._folder)
        if layout.MANIFEST in listed:
            self._mirror.sync()
            return []
        of_units = f"{layout.UNITS}/"
        self._mirror.records(
            self.header.name,
            {name.removeprefix(of_units): s for name, s in listed.items() if name.startswith(of_units)},
        )
        sizes = {name: stat.nbytes for name, stat in listed.items()}
        self._uploaded = {u for u in range(self.header.units) if self._is_there(u, sizes)}
        return [u for u in range(self.header.units) if u not in self._uploaded]

    def _is_there(self, unit: int, sizes: dict[str, int]) -> bool:
        record = journal.read_record(self.path, unit)
        return (
            record is not None
            and journal.fits(self.header, self._fingerprint, record, unit)
            and all(sizes.get(f.path) == f.nbytes for f in record.files)
        )

    def _standing(self, unit: int) -> UnitRecord | None:
        """The record of a unit that is there already, also by a process that finished the feature."""
        if unit in self._uploaded:
            return journal.read_record(self.path, unit)
        found = self._record_there(unit)
        if found is not None and all(self._has(f.path, f.nbytes) for f in found.files):
            return found
        if found is None and self._remote.stat(f"{self._folder}/{layout.MANIFEST}") is not None:
            self._mirror.sync()
            return next(r for r in journal.consolidated(self.path, self.header) if r.unit == unit)
        return None

    def _has(self, name: str, nbytes: int) -> bool:
        stat = self._remote.stat(f"{self._folder}/{name}")
        return stat is not None and stat.nbytes == nbytes

    def _record_there(self, unit: int) -> UnitRecord | None:
        name = self._record_name(unit)
        data = self._remote.read(name, most=MOST_DOCUMENT_BYTES)
        if data is None:
            return None
        try:
            record = UnitRecord.from_json(data, where=name)
        except EmbedstoreError:
            return None
        return record if journal.fits(self.header, self._fingerprint, record, unit) else None

    def _record_name(self, unit: int) -> str:
        return f"{self._folder}/{layout.UNITS}/{layout.record(self.path, unit).name}"

    def _record(self, record: UnitRecord) -> UnitRecord:
        """Upload the files of a unit that is whole here, then its record; then make room here."""
        super()._record(record)
        with ThreadPoolExecutor(_UPLOADS, "embedstore-upload") as pool:
            list(pool.map(self._upload, [f.path for f in record.files]))
        name, data = self._record_name(record.unit), record.to_json().encode()
        with effect("upload", self.path / layout.UNITS / name):
            # One that is there and differs is of files which ours have just replaced.
            if not self._remote.put(name, data, create=True) and self._record_there(record.unit) != record:
                self._remote.put(name, data)
        self._uploaded.add(record.unit)
        for file in record.files:
            files.remove(self.path / file.path)
        return record

    def _upload(self, name: str) -> None:
        with effect("upload", self.path / name):
            self._remote.upload(f"{self._folder}/{name}", self.path / name)

    def _consolidate(self, missing: list[int]) -> None:
        """Make the tables and the manifest here, then have them there, the manifest last."""
        if self._complete():
            return
        super()._consolidate(missing)
        for name in (layout.UNITS_TABLE, layout.QUARANTINE, layout.MANIFEST):
            self._upload(name)

    def _tidy(self) -> None:
        """Remove the records, which the tables hold now."""
        there, _ = self._remote.listing(f"{self._folder}/{layout.UNITS}")
        for name in there:
            self._remote.remove(f"{self._folder}/{layout.UNITS}/{name}")
        super()._tidy()
