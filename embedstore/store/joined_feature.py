"""One feature of several stores read as one: the rows of the first store, then those of the second, ..."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from embedstore.documents import FeatureManifest
from embedstore.errors import MismatchError, UsageError
from embedstore.store.feature import Feature
from embedstore.store.reads.chunks import ShardedArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedstore.documents import FeatureHeader, Plan
    from embedstore.shapes import AnyArray, IntArray

# What follows from the number of rows, or decides only how they lie on disk.
_OF_ONE_STORE = {
    "name",
    "rows",
    "shard_rows",
    "units",
    "thumbnails",
    "plan_fingerprint",
    "arrays",
    "card",
    "origin",
}


def _essence(header: FeatureHeader) -> dict[str, Any]:
    """What must agree for two features to be read as one, beside their cards: the policy, the arrays."""
    return {
        **header.model_dump(mode="json", exclude=_OF_ONE_STORE),
        "arrays": {a.name: {"row shape": list(a.shape[1:]), "dtype": a.dtype} for a in header.arrays},
    }


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {k: v for key, sub in value.items() for k, v in _flat(sub, f"{path}.{key}").items()}
    return {path.lstrip("."): value}


def differences(ours: FeatureHeader, theirs: FeatureHeader) -> dict[str, tuple[Any, Any]]:
    """`field.path -> (ours, theirs)` of everything for which two features cannot be read as one."""
    a, b = _flat(_essence(ours)), _flat(_essence(theirs))
    fields = {k: (a.get(k), b.get(k)) for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)}
    return {f"card.{k}": v for k, v in ours.card.differences(theirs.card).items()} | fields


def refuse_other_feature(ours: FeatureHeader, theirs: FeatureHeader, *, where: object, todo: str) -> None:
    """`MismatchError` that lists the fields in which two features of one name differ."""
    fields = differences(ours, theirs)
    if fields:
        raise MismatchError(
            f"the feature {ours.name!r} is not the same in these stores",
            where=where,
            found="; ".join(f"{name}: {a!r} and {b!r}" for name, (a, b) in fields.items()),
            todo=todo,
        )


def with_known_probe(headers: Sequence[FeatureHeader]) -> FeatureHeader:
    """The first header, with the probe of the first that has one."""
    first, known = headers[0], next((h.card.probe for h in headers if h.card.probe is not None), None)
    if first.card.probe == known:
        return first
    return first.model_copy(update={"card": first.card.model_copy(update={"probe": known})})


def joined_header(headers: Sequence[FeatureHeader], plan: Plan) -> FeatureHeader:
    """The header of the joined feature. `shard_rows` is the first part's: a unit is never read by number."""
    first = with_known_probe(headers)
    arrays = tuple(
        spec.model_copy(
            update={"shape": (sum(_places(h, spec.name) for h in headers), *spec.shape[1:])},
        )
        for spec in first.arrays
    )
    return first.model_copy(
        update={
            "rows": sum(h.rows for h in headers),
            "units": sum(h.units for h in headers),
            "thumbnails": max(h.thumbnails for h in headers),
            "plan_fingerprint": plan.fingerprint,
            "arrays": arrays,
        }
    )


def _places(header: FeatureHeader, name: Any) -> int:
    spec = header.array(name)
    return 0 if spec is None else spec.shape[0]


class JoinedArray(ShardedArray):
    """Arrays of equal rows one after the other; places are counted through."""

    def __init__(self, parts: Sequence[ShardedArray]) -> None:
        first = parts[0]
        starts = np.cumsum([0, *(p.spec.shape[0] for p in parts)])
        spec = first.spec.model_copy(update={"shape": (int(starts[-1]), *first.spec.shape[1:])})
        super().__init__(first._feature, spec, first._mode)
        self._parts, self._starts = tuple(parts), starts

    def __reduce__(self) -> tuple[Any, ...]:
        return JoinedArray, (self._parts,)

    @property
    def whole_chunks(self) -> bool:
        """Whether it is so in one of the parts."""
        return any(part.whole_chunks for part in self._parts)

    @property
    def parts(self) -> tuple[tuple[ShardedArray, int], ...]:
        """The arrays that this one is made of, each with its first place."""
        return tuple(zip(self._parts, self._starts[:-1].tolist(), strict=True))

    def read(self, start: int, stop: int, out: AnyArray | None = None) -> AnyArray:
        """Places `[start, stop)`, from as many parts as they lie in."""
        if not 0 <= start <= stop <= self.spec.shape[0]:
            raise UsageError(
                f"rows outside {self.spec.name}",
                found=f"[{start}, {stop})",
                allowed=f"[0, {self.spec.shape[0]})",
            )
        shares = [
            (part, first, low, high)
            for part, first in self.parts
            if (low := max(start, first)) < (high := min(stop, first + part.spec.shape[0]))
        ]
        if out is None:
            for part, first, low, high in shares:
                part.refuse_impossible_read(low - first, high - first)
        out = self.empty(stop - start) if out is None else self._checked_out(out, stop - start)
        for part, first, low, high in shares:
            part.read(low - first, high - first, out[low - start : high - start])
        return out

    def refuse_impossible(self, starts: IntArray, lengths: IntArray) -> None:
        """Each stretch by the part that it lies in."""
        owner = np.searchsorted(self._starts, starts, side="right") - 1
        for number in map(int, np.unique(owner)):
            mine = owner == number
            self._parts[number].refuse_impossible(starts[mine] - self._starts[number], lengths[mine])

    def gather(self, places: IntArray, out: AnyArray | None = None) -> AnyArray:
        """Any places in any order, repeats allowed; each part is asked once."""
        wanted, out = self.wanted(places, out)
        owner = np.searchsorted(self._starts, wanted, side="right") - 1
        for number in map(int, np.unique(owner)):
            part, first = self._parts[number], self._starts[number]
            mine = np.flatnonzero(owner == number)
            if len(mine) == len(wanted):
                return part.gather(wanted - first, out)
            out[mine] = part.gather(wanted[mine] - first)
        return out


class JoinedFeature(Feature):
    """A feature over all rows of a `JoinedStore`; the same surface as `Feature`.

    `path` is the first part's folder; `parts` are the features themselves, in order.
    """

    def __init__(self, parts: Sequence[Feature], plan: Plan) -> None:
        header = joined_header([p.header for p in parts], plan)
        digest = hashlib.sha256("\n".join(p.manifest.units_sha256 for p in parts).encode())
        manifest = FeatureManifest(
            header=header,
            quarantined=sum(p.manifest.quarantined for p in parts),
            tokens=sum(p.manifest.tokens for p in parts),
            nbytes=sum(p.manifest.nbytes for p in parts),
            units_sha256=digest.hexdigest(),
        )
        self.parts, self._plan = tuple(parts), plan
        super().__init__(parts[0].path, manifest, parts[0]._verify)

    def _open_arrays(self) -> dict[str, ShardedArray]:
        return {a.name: JoinedArray([p.array(a.name) for p in self.parts]) for a in self.header.arrays}

    def __reduce__(self) -> tuple[Any, ...]:
        return JoinedFeature, (self.parts, self._plan)

    def lengths(self) -> AnyArray:
        """Tokens of every text `(n,)` int32, read once; do not write into it."""
        with self._lock:
            if self._lengths is None:
                lengths: AnyArray = np.concatenate([p.lengths() for p in self.parts])
                lengths.flags.writeable = False
                self._lengths = lengths
            return self._lengths

    def token_starts(self) -> IntArray:
        """The place in the joined packed tokens where each text begins `(n,)` int64."""
        with self._lock:
            if self._starts is None:
                before = np.cumsum([0, *(p.array("tokens").spec.shape[0] for p in self.parts[:-1])])
                starts = [p.token_starts() + b for p, b in zip(self.parts, before.tolist(), strict=True)]
                self._starts = np.concatenate(starts)
                self._starts.flags.writeable = False
            return self._starts

    def ids(self) -> pa.ChunkedArray[pa.StringScalar]:
        """The id of every row."""
        return pa.chunked_array([chunk for p in self.parts for chunk in p.ids().chunks], pa.string())
