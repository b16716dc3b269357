"""What a running encode tells: progress for a screen, and a log beside the store."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from embedstore.errors import TooManyFailedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from embedstore.documents import FeatureHeader, FeatureManifest


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Rows of a feature that are encoded; `fresh` of them by this run, in `seconds`.

    `feature` names several where one pass makes them together (`name_of_pass`).
    `step` "calibrate": rows of the sample from which its policy learns, before any row is stored.
    """

    feature: str
    table: str
    done: int
    total: int
    fresh: int
    seconds: float
    device: str
    step: Literal["encode", "calibrate"] = "encode"


@dataclass(frozen=True, kw_only=True)
class FeatureSummary:
    """What one feature of the command came to. `fresh` rows were encoded by this run in `seconds`.

    Features of one pass share its time: each has all of it.
    `sampled` rows were encoded before that, for its policy to learn from. `manifest` is none while
    `missing_units` are left to other parts.
    """

    name: str
    header: FeatureHeader
    manifest: FeatureManifest | None
    fresh: int
    seconds: float
    truncated: int
    device: str
    sampled: int = 0
    missing_units: int = 0

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready summary."""
        header, whole = self.header, self.manifest
        return {
            "feature": self.name,
            "table": header.table,
            "rows": header.rows,
            "units": header.units,
            "missing_units": self.missing_units,
            "encoded": None if whole is None else header.rows - whole.quarantined,
            "quarantined": None if whole is None else whole.quarantined,
            "truncated": self.truncated,
            "nbytes": None if whole is None else whole.nbytes,
            "fresh_rows": self.fresh,
            "calibration_rows": self.sampled,
            "seconds": round(self.seconds, 3),
            "device": self.device,
        }


@dataclass(frozen=True, kw_only=True)
class EncodeSummary:
    """What `encode_source` did.

    `store`: its path or URL. `dropped`: what the source left out while it was listed, reason to count.
    `workers`: processes that made units; `workers_lost`: how often one of them died.
    """

    store: Path | str
    planned: bool
    features: tuple[FeatureSummary, ...]
    dropped: Mapping[str, int]
    workers: int = 1
    workers_lost: int = 0

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready summary."""
        return {
            "store": str(self.store),
            "planned": self.planned,
            "features": [f.to_dict() for f in self.features],
            "dropped": dict(self.dropped),
            "workers": self.workers,
            "workers_lost": self.workers_lost,
        }


def name_of_pass(names: Sequence[str]) -> str:
    """How features that one pass makes are called together."""
    return ", ".join(names) if len(names) <= 2 else f"{names[0]}, …, {names[-1]} ({len(names)} features)"


def too_many_failed(header: FeatureHeader, quarantined: int, share: float) -> TooManyFailedError:
    """The error of a feature of which more than a `share` of the rows cannot be read."""
    return TooManyFailedError(
        "too many rows cannot be read",
        where=f"feature {header.name!r}",
        found=f"{quarantined} of {header.rows} rows quarantined",
        allowed=f"{share * header.rows:g} rows (--max-failed {share:g})",
        todo="mend the source and make a new store, or run again with a higher --max-failed: "
        "what is finished stays",
    )


def log_path(store: Path) -> Path:
    """The log of a store: beside it, since no file of a store holds a clock."""
    whole = store.absolute() if store.name else store.resolve()
    return whole.with_name(whole.name + ".encode.log")


def log_event(store: Path, event: str, **facts: Any) -> None:
    """Append one JSON line with the time to the log beside the store."""
    line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": event, **facts}
    with log_path(store).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
