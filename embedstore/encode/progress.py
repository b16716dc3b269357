"""What a running encode tells: progress for a screen, and a log beside the store."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from embedstore.documents import FeatureManifest


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Rows of one feature that are encoded; `fresh` of them by this run, in `seconds`."""

    feature: str
    table: str
    done: int
    total: int
    fresh: int
    seconds: float
    device: str


@dataclass(frozen=True, kw_only=True)
class FeatureSummary:
    """What one feature of the command came to. `fresh` rows were encoded by this run in `seconds`."""

    name: str
    manifest: FeatureManifest
    fresh: int
    seconds: float
    truncated: int
    device: str

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready summary."""
        header = self.manifest.header
        return {
            "feature": self.name,
            "table": header.table,
            "rows": header.rows,
            "encoded": header.rows - self.manifest.quarantined,
            "quarantined": self.manifest.quarantined,
            "truncated": self.truncated,
            "nbytes": self.manifest.nbytes,
            "fresh_rows": self.fresh,
            "seconds": round(self.seconds, 3),
            "device": self.device,
        }


@dataclass(frozen=True, kw_only=True)
class EncodeSummary:
    """What `encode_source` did.

    `store`: its path or URL. `dropped`: what the source left out while it was listed, reason to count.
    """

    store: Path | str
    planned: bool
    features: tuple[FeatureSummary, ...]
    dropped: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready summary."""
        return {
            "store": str(self.store),
            "planned": self.planned,
            "features": [f.to_dict() for f in self.features],
            "dropped": dict(self.dropped),
        }


def log_path(store: Path) -> Path:
    """The log of a store: beside it, since no file of a store holds a clock."""
    whole = store.absolute() if store.name else store.resolve()
    return whole.with_name(whole.name + ".encode.log")


def log_event(store: Path, event: str, **facts: Any) -> None:
    """Append one JSON line with the time to the log beside the store."""
    line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": event, **facts}
    with log_path(store).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
