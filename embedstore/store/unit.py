"""What is handed over for one unit, checked against the header and made ready to be stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from embedstore.errors import StorageValueError
from embedstore.policies import parse_policy
from embedstore.store import geometry, tables
from embedstore.store.coding.codecs import FLOATS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedstore.documents import ArrayName, ArraySpec, FeatureHeader, QuarantinedRow
    from embedstore.shapes import AnyArray, IntArray


def conform_arrays(
    header: FeatureHeader,
    unit: int,
    arrays: Mapping[ArrayName, AnyArray],
    quarantined: Sequence[QuarantinedRow],
) -> dict[ArrayName, AnyArray]:
    """The arrays of a unit in their stored dtypes, quarantined rows blanked, `status` added.

    Raises `StorageValueError` for a unit that is not there, missing or unknown arrays, wrong shapes or
    dtypes, lengths that do not fit, and values that the policy cannot hold.
    """
    if not 0 <= unit < header.units:
        raise StorageValueError(
            "no such unit", where=header.name, found=unit, allowed=f"0 to {header.units - 1}"
        )
    wanted = {a.name for a in header.arrays} - {"status"}
    if set(arrays) - {"status"} != wanted:
        raise StorageValueError(
            "wrong arrays for the unit", where=header.name, found=sorted(arrays), allowed=sorted(wanted)
        )
    rows = header.unit_rows(unit)
    bad = _bad_rows(header, rows, quarantined)
    status = np.zeros(len(rows), np.uint8)
    status[bad] = 1
    ready: dict[ArrayName, AnyArray] = {"status": status}
    lengths = _lengths(header, rows, arrays["lengths"], bad) if "lengths" in wanted else None
    if lengths is not None:
        ready["lengths"] = lengths
    for spec in header.arrays:
        if spec.name not in ready:
            ready[spec.name] = _values(
                header, unit, spec, np.asarray(arrays[spec.name]), bad, lengths=lengths
            )
    return ready


def _bad_rows(header: FeatureHeader, rows: range, quarantined: Sequence[QuarantinedRow]) -> IntArray:
    numbers = [q.row for q in quarantined]
    if any(n not in rows for n in numbers) or numbers != sorted(set(numbers)):
        raise StorageValueError(
            "quarantined rows do not fit the unit",
            where=header.name,
            found=numbers[:10],
            allowed=f"each once, ascending, {rows.start} to {rows.stop - 1}",
        )
    return np.array(numbers, dtype=np.int64) - rows.start


def _lengths(header: FeatureHeader, rows: range, given: AnyArray, bad: IntArray) -> AnyArray:
    lengths = np.asarray(given)
    if lengths.shape != (len(rows),) or lengths.dtype.kind not in "iu":
        raise StorageValueError(
            "wrong lengths",
            where=header.name,
            found=f"{lengths.dtype} {lengths.shape}",
            allowed=f"integers ({len(rows)},)",
        )
    outside = np.flatnonzero((lengths < 0) | (lengths > header.max_tokens))
    if outside.size or lengths[bad].any():
        row = int(outside[0]) if outside.size else int(bad[np.flatnonzero(lengths[bad])[0]])
        raise StorageValueError(
            f"row {rows.start + row} has a wrong number of tokens",
            where=header.name,
            found=int(lengths[row]),
            allowed=f"0 to {header.max_tokens}" if outside.size else "0 for a quarantined row",
        )
    return lengths.astype("<i4")


def _values(
    header: FeatureHeader,
    unit: int,
    spec: ArraySpec,
    values: AnyArray,
    bad: IntArray,
    *,
    lengths: AnyArray | None,
) -> AnyArray:
    packed = geometry.is_packed(header, spec)
    shape = geometry.unit_shape(header, spec, unit, tokens=int(lengths.sum()) if lengths is not None else 0)
    if values.shape != shape:
        raise StorageValueError(
            f"wrong shape of {spec.name} in unit {unit}", where=header.name, found=values.shape, allowed=shape
        )
    rows = header.unit_rows(unit)
    if packed and lengths is not None:
        return _stored(header, spec, values, np.repeat(np.arange(rows.start, rows.stop), lengths))
    good = values
    if bad.size:
        good = values.copy()
        good[bad] = 0
    stored = _stored(header, spec, good, np.arange(rows.start, rows.stop))
    if bad.size:
        stored[bad] = geometry.fill_value(spec)
    return stored


def _stored(header: FeatureHeader, spec: ArraySpec, values: AnyArray, rows: IntArray) -> AnyArray:
    """Floats in the stored dtype; codes as they are, since only their policy's encoder can make them."""
    where = f"{header.name}/{spec.name}"
    number = parse_policy(header.policy).number
    plain = {FLOATS[n].dtype: FLOATS[n] for n in FLOATS if n in (number, "float32")}
    kind = plain.get(geometry.stored_dtype(spec))
    if kind is not None:
        return kind.encode(values, array=where, rows=rows)
    if values.dtype != geometry.stored_dtype(spec):
        raise StorageValueError(f"wrong dtype for {where}", found=values.dtype, allowed=spec.dtype)
    return np.ascontiguousarray(values)


def conform_thumbnails(
    header: FeatureHeader, unit: int, jpegs: Sequence[bytes | None] | None
) -> pa.Table | None:
    """The thumbnails of a unit as a table, none where the header keeps none."""
    if not header.thumbnails:
        if jpegs is not None:
            raise StorageValueError("this feature keeps no thumbnails", where=header.name)
        return None
    rows = header.unit_rows(unit)
    if jpegs is None or len(jpegs) != len(rows):
        raise StorageValueError(
            "wrong number of thumbnails",
            where=header.name,
            found=None if jpegs is None else len(jpegs),
            allowed=f"{len(rows)}, one a row or none",
        )
    kept: list[dict[str, Any]] = [
        {"row": row, "jpeg": jpeg} for row, jpeg in zip(rows, jpegs, strict=True) if jpeg is not None
    ]
    return pa.Table.from_pylist(kept, schema=tables.THUMBNAILS)
