"""Check a remote store by what is there, not by what is cached: a unit is brought, checked and removed."""

from __future__ import annotations

import math
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import CorruptStoreError
from embedstore.store import files, geometry, journal, layout, shard
from embedstore.store.checks.unit import UnitCheck, UnitResult
from embedstore.store.remote.cache_folder import is_mirrored
from embedstore.store.remote.mirror import mirror_of, own_mirror

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from embedstore.documents import ArraySpec, ShardFile, UnitRecord
    from embedstore.store.checks.report import Finding
    from embedstore.store.remote.mirror import Mirror


@contextmanager
def uncached(store: Path) -> Iterator[Path]:
    """The folder of a store; of a remote one a new mirror, in which nothing is yet, removed at the end."""
    if not is_mirrored(store):
        yield store
        return
    mirror = own_mirror(mirror_of(store).remote.url)
    try:
        yield mirror.root
    finally:
        mirror.close()


def bring_metadata(store: Path, names: Iterable[str]) -> None:
    """Have the Zarr metadata of a remote store here."""
    if is_mirrored(store):
        mirror_of(store).metadata(names)


def push_repair(store: Path, findings: Iterable[Finding]) -> None:
    """Do to a remote store what a repair has just done to its mirror `store`; safe to be stopped anywhere."""
    if not is_mirrored(store):
        return
    mirror, features = mirror_of(store), set()
    for found in findings:
        if found.kind == "corrupt" and found.feature is not None:
            features.add(found.feature)
        elif (
            found.kind == "corrupt" and found.where.endswith(layout.ZARR) and (store / found.where).is_file()
        ):
            mirror.remote.put(found.where, (store / found.where).read_bytes())
    for name in sorted(features):
        _push_journal(mirror, name)


def _push_journal(mirror: Mirror, feature: str) -> None:
    """First the records of the good units, then nothing more says that the feature is complete."""
    folder, units = f"{layout.FEATURES}/{feature}", f"{layout.FEATURES}/{feature}/{layout.UNITS}"
    here = {p.name: p for p in layout.records(mirror.root / folder)}
    if (mirror.root / folder / layout.MANIFEST).is_file():
        return
    for name, path in here.items():
        mirror.remote.put(f"{units}/{name}", path.read_bytes())
    for name in (layout.MANIFEST, layout.UNITS_TABLE, layout.QUARANTINE):
        mirror.remote.remove(f"{folder}/{name}")
    for name in set(mirror.remote.listing(units)[0]) - set(here):
        mirror.remote.remove(f"{units}/{name}")


class RemoteUnitCheck(UnitCheck):
    """Checks units of a remote feature: the local check on files that are here only for its time.

    Of a sample, files are brought with their sizes and indices, and else only with what the sample reads.
    """

    def __call__(self, record: UnitRecord) -> UnitResult:
        """Everything that one unit promises."""
        if not journal.fits(self._header, self._fingerprint, record, record.unit):
            return super().__call__(record)
        mirror = mirror_of(self._folder)
        specs: list[ArraySpec | None] = [*self._header.arrays, None]
        try:
            for file, spec in zip(record.files, specs, strict=False):
                self._bring(mirror, file, spec, record)
            return super().__call__(record)
        finally:
            for file in record.files:
                (self._folder / file.path).unlink(missing_ok=True)

    def _bring(self, mirror: Mirror, file: ShardFile, spec: ArraySpec | None, record: UnitRecord) -> None:
        final = self._folder / file.path
        name = final.relative_to(mirror.root).as_posix()
        stat = mirror.remote.stat(name)
        if stat is None:
            return
        if stat.nbytes != file.nbytes:
            # The size is all that the check will look at.
            _sparse(final, stat.nbytes)
        elif self._sample is None or (self._sample.rows(self._header, record.unit) and _is_small(spec)):
            mirror.fetch(name, final, stat)
        elif spec is None:
            if self._sample.file(self._header, record.unit):
                mirror.fetch(name, final, stat)
            else:
                _sparse(final, stat.nbytes)
        else:
            _sparse(final, stat.nbytes)
            self._bring_sample(mirror, file, spec, record)

    def _bring_sample(self, mirror: Mirror, file: ShardFile, spec: ArraySpec, record: UnitRecord) -> None:
        """The index, and the chunks that the sample draws, of a file that else is full of holes."""
        chunks = spec.shard // spec.chunk
        step = math.prod(spec.shape[1:]) * np.dtype(spec.dtype).itemsize * spec.chunk
        final = self._folder / file.path
        name = final.relative_to(mirror.root).as_posix()
        handle = os.open(final, os.O_RDWR)
        try:
            _fill(mirror, name, handle, max(0, file.nbytes - 16 * chunks - shard.CRC), file.nbytes)
            offsets = shard.read_index(handle, chunks=chunks, chunk_bytes=step, where=name, todo="")
            used = geometry.unit_shape(self._header, spec, record.unit, tokens=record.tokens)[0]
            if self._sample is not None:
                for chunk in self._sample.chunks(
                    self._header, spec, record.unit, -(-used // spec.chunk)
                ).tolist():
                    first = int(offsets[chunk])
                    if first >= 0:
                        _fill(mirror, name, handle, first, first + step + shard.CRC)
        except CorruptStoreError:
            # The check will come to the same index and say so.
            return
        finally:
            os.close(handle)


def _is_small(spec: ArraySpec | None) -> bool:
    """Whether the check of a unit's rows reads this array."""
    return spec is not None and spec.name in ("status", "pooled", "pooled_scales", "lengths")


def _sparse(path: Path, nbytes: int) -> None:
    files.make_folder(path.parent)
    with path.open("wb") as file:
        file.truncate(nbytes)


def _fill(mirror: Mirror, name: str, handle: int, first: int, stop: int) -> None:
    data = memoryview(mirror.remote.read_range(name, first, stop))
    while data:
        done = os.pwrite(handle, data, first)
        data, first = data[done:], first + done
