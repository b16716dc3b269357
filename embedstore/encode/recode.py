"""The verb `recode`: a cached feature under another storage policy, in one pass and without its encoder."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from embedstore.documents import Origin, QuarantinedRow, refuse_differences
from embedstore.encode.progress import Progress, log_event
from embedstore.errors import UsageError
from embedstore.policies import parse_policy
from embedstore.store import FeatureWriter, Storing, begun_headers, layout, open_store, plan_feature, tables
from embedstore.store.coding import calibration as learning
from embedstore.store.coding.coder import Coder
from embedstore.store.geometry import effective_policy, fill_value, is_packed
from embedstore.store.joined import refuse_joined
from embedstore.store.remote.plan import log_place, refuse_read_only

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from os import PathLike
    from pathlib import Path

    from embedstore.documents import ArrayName, FeatureHeader, FeatureManifest
    from embedstore.policies import Policy
    from embedstore.shapes import AnyArray, Float32Array, IntArray
    from embedstore.store import Feature, Store

SLICE_BYTES = 32 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RecodeSummary:
    """What a recoding came to. `source_nbytes`: of the arrays it was made from; thumbnails stay with them."""

    source: str
    source_nbytes: int
    manifest: FeatureManifest
    fresh: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready summary; `smaller` is how many times fewer bytes the new feature takes."""
        header = self.manifest.header
        return {
            "feature": header.name,
            "source": self.source,
            "policy": header.policy,
            "rows": header.rows,
            "source_nbytes": self.source_nbytes,
            "nbytes": self.manifest.nbytes,
            "smaller": round(self.source_nbytes / max(1, self.manifest.nbytes), 3),
            "fresh_rows": self.fresh,
            "seconds": round(self.seconds, 3),
        }


def recode_feature(
    store: str | PathLike[str],
    feature: str,
    *,
    policy: str,
    name: str,
    shard_rows: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> RecodeSummary:
    """Make the feature `name` from the stored values of `feature`, under another policy.

    Killed and run again it makes only what is missing, and the files come out byte-identical. What the policy
    must learn comes from a sample of rows that the plan fixes, committed before the first unit. Text features
    take the number format of a policy that shrinks. Thumbnails stay with the source.
    Raises `UsageError` for a policy that does not fit and for a source whose tokens are shrunk already,
    `MismatchError` where `name` is another feature.
    """
    refuse_joined(store, what="recode")
    refuse_read_only(store, what="recode")
    opened = open_store(store)
    source = opened[feature]
    if source.coder.policy.shrinks:
        raise UsageError(
            "the tokens of this feature are shrunk already",
            where=feature,
            found=source.header.policy,
            todo="recode the feature that it was made from, and that has them all",
        )
    return _Recoding(
        store=opened,
        log=log_place(store),
        source=source,
        name=name,
        policy=policy,
        shard_rows=shard_rows,
        on_progress=on_progress or (lambda _: None),
    ).make()


class _Recoding:
    """One recoding on its way."""

    def __init__(
        self,
        *,
        store: Store,
        log: Path,
        source: Feature,
        name: str,
        policy: str,
        shard_rows: int | None,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self.store, self.log, self.source, self._on_progress = store, log, source, on_progress
        self.started, self.fresh = time.monotonic(), 0
        planned = self._planned(name, policy, shard_rows)
        self._refuse_other(planned)
        self.policy: Policy = effective_policy(planned.policy, source.card)
        found = None
        if self.policy.learns:
            found = learning.commit(store.path, name, identity=self._identity(planned), make=self._learn)
        self.header = planned.model_copy(update={"calibration_sha256": found.sha256 if found else None})
        self.coder = Coder.of(self.header, found.arrays if found else None)
        lines = tables.read_file(layout.of_feature(source.path, layout.QUARANTINE), "quarantine").to_pylist()
        self._quarantined = [QuarantinedRow(**line) for line in lines]

    def _planned(self, name: str, policy: str, shard_rows: int | None) -> FeatureHeader:
        source = self.source.header
        return plan_feature(
            name=name,
            plan=self.store.plan,
            card=source.card,
            policy=parse_policy(policy, where="--policy").name,
            shard_rows=shard_rows,
            imported_tokens=0 if source.card.runs_an_encoder else source.max_tokens,
            origin=Origin(feature=source.name, manifest_fingerprint=self.source.manifest.fingerprint),
        )

    def _refuse_other(self, planned: FeatureHeader) -> None:
        """Before anything is written: a feature of this name must be this very recoding."""
        begun = begun_headers(self.store.path).get(planned.name)
        if begun is None:
            return
        same = planned.model_copy(update={"calibration_sha256": begun.calibration_sha256})
        refuse_differences(
            begun,
            same,
            what="the feature of this name",
            where=planned.name,
            todo="give the new feature another name: --as NAME",
        )

    def _identity(self, planned: FeatureHeader) -> dict[str, str]:
        return {"policy": planned.policy, "source": self.source.manifest.fingerprint}

    def _learn(self) -> dict[str, Float32Array]:
        source = self.source
        kept = learning.planned_tokens(source.header, self.policy)
        rows = learning.sample_rows(self.store.plan, rows=source.rows, tokens=kept)
        rows = rows[source.gather("status", rows) == 0]
        slices = (_decoded(source, some) for some in _slices(rows, source))
        return learning.learn_from(self.policy, slices, grid=source.card.grid)

    def make(self) -> RecodeSummary:
        """Make what is missing, then finish the feature."""
        writer = FeatureWriter.open(self.store.path, self.header)
        units = writer.missing_units()
        done = self.header.rows - sum(len(self.header.unit_rows(u)) for u in units)
        with Storing(writer, at_once=1) as storing:
            for unit in units:
                arrays, quarantined = self._unit(unit)
                storing.put(unit, arrays, quarantined=quarantined)
                self.fresh += len(self.header.unit_rows(unit))
                self._on_progress(
                    Progress(
                        feature=self.header.name,
                        table=self.header.table,
                        done=done + self.fresh,
                        total=self.header.rows,
                        fresh=self.fresh,
                        seconds=time.monotonic() - self.started,
                        device="cpu",
                    )
                )
        manifest = writer.finish()
        seconds = time.monotonic() - self.started
        if units:
            log_event(
                self.log,
                "recoded",
                feature=self.header.name,
                source=self.source.name,
                rows=self.fresh,
                seconds=round(seconds, 3),
            )
        return RecodeSummary(
            source=self.source.name,
            source_nbytes=_nbytes_of_arrays(self.source),
            manifest=manifest,
            fresh=self.fresh,
            seconds=seconds,
        )

    def _unit(self, unit: int) -> tuple[dict[ArrayName, AnyArray], list[QuarantinedRow]]:
        """Every stored array of a unit but its status; slices begin at the unit, so its bytes are its own."""
        rows = np.arange(*_bounds(self.header.unit_rows(unit)))
        bad = self.source.gather("status", rows) != 0
        tokens = int(self.source.lengths()[rows].sum()) if "lengths" in self.source.arrays else 0
        arrays: dict[ArrayName, AnyArray] = {
            spec.name: np.full(
                (tokens if is_packed(self.header, spec) else len(rows), *spec.shape[1:]),
                fill_value(spec),
                spec.dtype,
            )
            for spec in self.header.arrays
            if spec.name != "status"
        }
        packed = {s.name for s in self.header.arrays if is_packed(self.header, s)}
        at = 0
        for some in _slices(rows[~bad], self.source):
            made = self.coder.encode(_decoded(self.source, some), rows=some)
            for name, values in made.items():
                places = slice(at, at + len(values)) if name in packed else some - rows[0]
                arrays[name][places] = values
            at += len(made["tokens"]) if packed else 0
        return arrays, [q for q in self._quarantined if rows[0] <= q.row <= rows[-1]]


def _nbytes_of_arrays(source: Feature) -> int:
    """Bytes of a feature's shards."""
    if not source.header.thumbnails:
        return source.manifest.nbytes
    units = tables.read_file(layout.of_feature(source.path, layout.UNITS_TABLE), "units")
    shards = pc.invert(pc.starts_with(units["path"], f"{layout.THUMBNAILS}/"))
    return int(pc.sum(units["nbytes"].filter(shards)).as_py() or 0)


def _bounds(rows: range) -> tuple[int, int]:
    return rows.start, rows.stop


def _float_arrays(source: Feature) -> list[ArrayName]:
    names: tuple[ArrayName, ...] = ("tokens", "prefix", "pooled")
    return [name for name in names if name in source.arrays]


def _slices(rows: IntArray, source: Feature) -> Iterator[IntArray]:
    """Rows cut so that their plain float32 tokens take some tens of MB."""
    spec = source.header.array("tokens")
    places = 1 if spec is None else source.header.max_tokens or spec.shape[1]
    step = max(1, SLICE_BYTES // max(1, 4 * places * source.card.width))
    for first in range(0, len(rows), step):
        yield rows[first : first + step]


def _decoded(source: Feature, rows: IntArray) -> dict[ArrayName, AnyArray]:
    """Plain values of good rows, as a coder takes them."""
    made: dict[ArrayName, AnyArray] = {}
    for name in _float_arrays(source):
        if name == "tokens" and source.table == "texts":
            packed = source.decoded_text(rows)
            made |= {"tokens": packed.tokens, "lengths": packed.lengths.astype(np.int32)}
        else:
            made[name] = source.decoded(name, rows)
    return made
