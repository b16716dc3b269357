"""The feature of a compacted store: the rows that stay, in new units, equal to the old ones bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embedstore.documents import FeatureHeader, QuarantinedRow
from embedstore.errors import CorruptStoreError
from embedstore.store import files, geometry, layout, tables
from embedstore.store.joined_feature import JoinedFeature
from embedstore.store.reader import thumbnails_of
from embedstore.store.reads.chunks import ShardedArray
from embedstore.store.shard import as_bytes
from embedstore.store.writer import FeatureWriter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from embedstore.documents import ArrayName, ArraySpec, Plan
    from embedstore.shapes import AnyArray, IntArray
    from embedstore.store.feature import Feature
    from embedstore.store.reader import Store


def resized_header(header: FeatureHeader, plan: Plan, *, rows: int) -> FeatureHeader:
    """The header of the same feature over other rows, in units of the size that a new feature takes."""
    tokens = header.array("tokens") or header.arrays[0]
    packed = geometry.is_packed(header, tokens)
    places = header.max_tokens if packed else 1
    row_bytes = places * int(np.prod(tokens.shape[1:], dtype=np.int64)) * np.dtype(tokens.dtype).itemsize
    shard_rows = geometry.default_shard_rows(rows=rows, row_bytes=row_bytes)
    units = -(-rows // shard_rows)

    def resized(spec: ArraySpec) -> ArraySpec:
        packed = geometry.is_packed(header, spec)
        shard = shard_rows * (header.max_tokens if packed else 1)
        place = int(np.prod(spec.shape[1:], dtype=np.int64)) * np.dtype(spec.dtype).itemsize
        return spec.model_copy(
            update={
                "shape": (units * shard if packed else rows, *spec.shape[1:]),
                "shard": shard,
                "chunk": geometry.chunk_places(shard=shard, place_bytes=place),
            }
        )

    return header.model_copy(
        update={
            "rows": rows,
            "shard_rows": shard_rows,
            "units": units,
            "arrays": tuple(resized(spec) for spec in header.arrays),
            "plan_fingerprint": plan.fingerprint,
        }
    )


class FeatureCopy:
    """Copies rows `(n,)`, ascending, of a feature to the store at `to`; goes on where it stopped."""

    def __init__(self, store: Store, name: str, to: Path, plan: Plan, rows: IntArray) -> None:
        self._feature = store.feature(name, verify="first")
        self._parts: tuple[Feature, ...] = (
            self._feature.parts if isinstance(self._feature, JoinedFeature) else (self._feature,)
        )
        self._first = np.cumsum([0, *(p.rows for p in self._parts)])
        self._rows, self._to = rows, to
        self.header = resized_header(self._feature.header, plan, rows=len(rows))
        if len(self._parts) > 1:
            self.header = self.header.model_copy(update={"origin": None})
        self._quarantined = self._quarantine()

    def make(self, on_progress: Callable[[str, int, int], None]) -> None:
        """Write what is missing, then compare every unit with the old rows."""
        self._copy_calibration()
        writer = FeatureWriter.open(self._to, self.header)
        missing = set(writer.missing_units())
        for unit in range(self.header.units):
            arrays = self._arrays(unit)
            quarantined = tuple(q for q in self._quarantined if q.row in self.header.unit_rows(unit))
            jpegs = self._thumbnails(unit)
            if unit in missing:
                writer.write_unit(unit, arrays, quarantined=quarantined, thumbnails=jpegs)
            self._compare(writer.path, unit, arrays, jpegs)
            on_progress(self.header.name, unit + 1, self.header.units)
        writer.finish()

    def _copy_calibration(self) -> None:
        learnt = layout.of_feature(self._feature.path, layout.CALIBRATION)
        if self.header.calibration_sha256 is not None:
            files.commit(layout.feature(self._to, self.header.name) / layout.CALIBRATION, learnt.read_bytes())

    def _old_rows(self, unit: int) -> IntArray:
        mine = self.header.unit_rows(unit)
        return self._rows[mine.start : mine.stop]

    def _arrays(self, unit: int) -> dict[ArrayName, AnyArray]:
        """The old values of a unit's rows, as they are stored."""
        rows = self._old_rows(unit)
        places = self._token_places(rows)
        return {
            spec.name: self._feature.array(spec.name).gather(
                places if geometry.is_packed(self.header, spec) else rows
            )
            for spec in self.header.arrays
        }

    def _token_places(self, rows: IntArray) -> IntArray:
        """Every place of the packed tokens of these texts, in order."""
        if self.header.array("lengths") is None:
            return rows
        lengths = self._feature.lengths()[rows].astype(np.int64)
        before = np.cumsum(lengths) - lengths
        places: IntArray = np.repeat(self._feature.token_starts()[rows] - before, lengths)
        return places + np.arange(len(places))

    def _quarantine(self) -> list[QuarantinedRow]:
        """The quarantined rows that stay, under their new numbers."""
        found = []
        for part, first in zip(self._parts, self._first.tolist(), strict=False):
            lines = tables.read_file(
                layout.of_feature(part.path, layout.QUARANTINE), "quarantine"
            ).to_pylist()
            for line in lines:
                place = int(np.searchsorted(self._rows, line["row"] + first))
                if place < len(self._rows) and self._rows[place] == line["row"] + first:
                    found.append(QuarantinedRow(row=place, id=line["id"], reason=line["reason"]))
        return found

    def _thumbnails(self, unit: int) -> list[bytes | None] | None:
        if not self.header.thumbnails:
            return None
        rows = self._old_rows(unit)
        found: list[bytes | None] = [None] * len(rows)
        owner = np.searchsorted(self._first, rows, side="right") - 1
        for number in np.unique(owner).tolist():
            part = self._parts[number]
            if part.header.thumbnails:
                mine = np.flatnonzero(owner == number)
                jpegs = thumbnails_of(part.path, part.header, rows[mine] - self._first[number])
                for place, jpeg in zip(mine.tolist(), jpegs, strict=True):
                    found[place] = jpeg
        return found

    def _compare(
        self, made: Path, unit: int, arrays: dict[ArrayName, AnyArray], jpegs: list[bytes | None] | None
    ) -> None:
        """Read a unit back, checksums tested, and compare every bit."""
        rows = self.header.unit_rows(unit)
        for spec in self.header.arrays:
            values = arrays[spec.name]
            first = unit * spec.shard
            stored = ShardedArray(made, spec, verify="always").read(first, first + len(values))
            same = np.array_equal(as_bytes(stored), as_bytes(values)) if values.size else True
            if not same:
                raise self._differs(unit, spec.name)
        if jpegs is not None and thumbnails_of(made, self.header, np.arange(rows.start, rows.stop)) != jpegs:
            raise self._differs(unit, "thumbnails")

    def _differs(self, unit: int, what: str) -> CorruptStoreError:
        rows = self.header.unit_rows(unit)
        return CorruptStoreError(
            f"{what} of the new rows {rows.start} to {rows.stop - 1} are not those of the old store",
            where=f"{self._to}, feature {self.header.name}",
            todo="remove the folder and run the same command again; embedstore verify tells which is damaged",
        )
