"""Everything `embedstore info` tells about a store: no tokens are read, no torch is imported."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedstore.store import journal, layout, tables
from embedstore.store.prototypes import read_card as read_prototypes_card
from embedstore.store.reader import open_store
from embedstore.store.subsets.reading import read_card

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    from embedstore.documents import FeatureHeader, Plan, PrototypesCard, SubsetCard
    from embedstore.store.reader import Store


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
    parts: tuple[str, ...] = ()
    """The stores read as one; empty for a single store."""
    subsets: tuple[SubsetCard, ...] = ()
    """Cards of all subsets, by name; of several stores those of each."""
    prototypes: tuple[PrototypesCard, ...] = ()
    """Cards of all concept prototypes, likewise."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON value."""
        return {
            "fingerprint": self.fingerprint,
            "nbytes": self.nbytes,
            "plan": self.plan.model_dump(mode="json"),
            "features": [f.to_dict() for f in self.features],
            "parts": list(self.parts),
            "subsets": [card.model_dump(mode="json") for card in self.subsets],
            "prototypes": [card.model_dump(mode="json") for card in self.prototypes],
        }


def store_info(path: str | PathLike[str]) -> StoreInfo:
    """Look at plan, headers, manifests and records only; `A+B` as one. Raises as `open_store` does."""
    store = open_store(path)
    return StoreInfo(
        plan=store.plan,
        fingerprint=store.fingerprint,
        nbytes=store.nbytes,
        features=tuple(_joined_info(store, name) for name in store.features()),
        parts=tuple(part.place for part in store.parts) if len(store.parts) > 1 else (),
        subsets=tuple(
            read_card(part.path, name)
            for name in store.subsets()
            for part in store.parts
            if name in part.subsets()
        ),
        prototypes=tuple(
            read_prototypes_card(layout.inside(part.path, layout.prototypes(part.path, name)))
            for part in store.parts
            for name in layout.prototype_names(part.path)
        ),
    )


def _joined_info(store: Store, name: str) -> FeatureInfo:
    """A feature of all parts of a store."""
    found = [
        _feature_info(layout.feature(part.path, name)) for part in store.parts if name in part.features()
    ]
    reasons: Counter[str] = Counter()
    for info in found:
        reasons.update(info.quarantined)
    return FeatureInfo(
        header=store.header(name),
        complete=all(info.complete for info in found),
        units_done=sum(info.units_done for info in found),
        nbytes=sum(info.nbytes for info in found),
        quarantined=dict(sorted(reasons.items())),
    )


def _feature_info(folder: Path) -> FeatureInfo:
    header = journal.read_header(folder)
    manifest = journal.read_manifest(folder)
    if manifest is not None:
        path = layout.of_feature(folder, layout.QUARANTINE)
        reasons = tables.read_file(path, "quarantine", ["reason"])["reason"].to_pylist()
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
