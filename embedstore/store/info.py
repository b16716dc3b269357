"""Everything `embedstore info` tells about a store: no tokens are read, no torch is imported."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedstore.store import journal, layout, tables
from embedstore.store.reader import open_store

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    from embedstore.documents import FeatureHeader, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureInfo:
    """One feature: its header, how far it is, bytes of finished units, quarantine reasons with counts."""

    header: FeatureHeader
    complete: bool
    units_done: int
    nbytes: int
    quarantined: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """A JSON value."""
        return {
            "name": self.header.name,
            "complete": self.complete,
            "units_done": self.units_done,
            "nbytes": self.nbytes,
            "quarantined": self.quarantined,
            "header": self.header.model_dump(mode="json"),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreInfo:
    """A store at a glance; bytes are of tables and finished units."""

    plan: Plan
    fingerprint: str
    nbytes: int
    features: tuple[FeatureInfo, ...]

    def to_dict(self) -> dict[str, Any]:
        """A JSON value."""
        return {
            "fingerprint": self.fingerprint,
            "nbytes": self.nbytes,
            "plan": self.plan.model_dump(mode="json"),
            "features": [f.to_dict() for f in self.features],
        }


def store_info(path: str | PathLike[str]) -> StoreInfo:
    """Look at plan, headers, manifests and records only. Raises as `open_store` does."""
    store = open_store(path)
    features = tuple(_feature_info(layout.feature(store.path, name)) for name in store.features())
    tables_bytes = sum(
        part.stat().st_size
        for name in ("images", "texts", "masks")
        for part in layout.parts(store.path, name)
    )
    return StoreInfo(
        plan=store.plan,
        fingerprint=store.fingerprint,
        nbytes=tables_bytes + sum(f.nbytes for f in features),
        features=features,
    )


def _feature_info(folder: Path) -> FeatureInfo:
    header = journal.read_header(folder)
    manifest = journal.read_manifest(folder)
    if manifest is not None:
        reasons = tables.read_file(folder / layout.QUARANTINE, "quarantine", ["reason"])["reason"].to_pylist()
        return FeatureInfo(
            header=header,
            complete=True,
            units_done=header.units,
            nbytes=manifest.nbytes,
            quarantined=_counts(reasons),
        )
    found = [journal.read_record(folder, int(p.stem)) for p in layout.records(folder)]
    records = [r for r in found if r is not None]
    return FeatureInfo(
        header=header,
        complete=False,
        units_done=len(records),
        nbytes=sum(f.nbytes for r in records for f in r.files),
        quarantined=_counts([q.reason for r in records for q in r.quarantined]),
    )


def _counts(reasons: list[str]) -> dict[str, int]:
    return dict(sorted(Counter(reasons).items()))
