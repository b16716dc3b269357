"""How fast this machine reads, encodes and fits, against what the machine can do at most."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from embedstore.documents.base import FORMAT_VERSION, Count, Document, Positive, Sha256
from embedstore.documents.cards import EncoderCard

RateUnit: TypeAlias = Literal["B/s", "pictures/s", "texts/s", "steps/s", "FLOP/s"]


class Rate(Document):
    """One thing that was done again and again: its median rate, and those of its slowest and quickest round.

    `share` is this rate over that of its limit: the median of rounds in which both took turns.
    """

    of: str = Field(description="the feature, or the part of the work, that it belongs to")
    what: str
    unit: RateUnit
    value: float = Field(ge=0)
    low: float = Field(ge=0)
    high: float = Field(ge=0)
    rounds: Positive
    limit: str | None = Field(default=None, description="`what` of the rate that bounds this one")
    share: float | None = Field(default=None, ge=0)


class FeatureBytes(Document):
    """What a feature takes on the disk."""

    rows: Count
    nbytes: Count = Field(description="of all finished units")
    row_bytes: float = Field(description="of one sample, on average")
    policy: str
    arrays: dict[str, float] = Field(description="array to the bytes that a sample takes in it as stored")
    in_memory: float | None = Field(
        default=None, description="share in the page cache before anything was read; none: not known"
    )
    measured_rows: Count = Field(description="rows that the rates are of")
    measured_bytes: Count


class RatesReport(Document):
    """Rates of one kind of work, with the limits that were measured in turns with them."""

    format_version: Positive = FORMAT_VERSION
    task: Literal["cache", "speed"]
    rates: tuple[Rate, ...]
    features: dict[str, FeatureBytes] = Field(default={}, description="what was read")
    cards: dict[str, EncoderCard] = Field(default={}, description="feature to its encoder")
    threads: Positive = Field(description="that read, or that torch computes with")
    options: dict[str, str | int | float | bool] = Field(default={}, description="what the task was told")
    notes: tuple[str, ...] = Field(default=(), description="what a reader of these figures must know")
    store_fingerprint: Sha256
    versions: dict[str, str] = Field(default={}, description="library name to version")
    device: Literal["cpu", "cuda", "mps"] = "cpu"
    seed: Count = 0
