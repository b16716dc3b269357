"""What a bench measured."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from embedstore.documents.base import FORMAT_VERSION, Count, Document, Name, Positive, Sha256
from embedstore.documents.cards import EncoderCard
from embedstore.documents.subsets import RowsRecord


class Figure(Document):
    """One measured number with its 95 % bootstrap interval; shares are fractions of 1."""

    value: float
    low: float
    high: float


class Confusion(Document):
    """A class that was taken for another."""

    label: str
    taken_for: str
    images: Positive = Field(description="of `label` that were taken for `taken_for`")
    of: Positive = Field(description="images of `label`")


# Metrics that are not fractions of 1.
NOT_SHARES = frozenset({"median_rank", "mean_rank"})


class BenchReport(Document):
    """What one bench task measured: group -> metric -> figure, and everything it depends on.

    A group is a direction ("text_to_image"), or one part of it ("text_to_image/de", "text_to_image/32").
    """

    format_version: Positive = FORMAT_VERSION
    task: Name
    metrics: dict[str, dict[str, Figure]]
    chance: dict[str, dict[str, float]] = Field(default={}, description="the same metrics for random scores")
    images: Count = 0
    texts: Count = 0
    classes: Count = 0
    skipped: dict[str, Count] = Field(default={}, description="reason to rows left out")
    split: str | None = None
    rows: RowsRecord | None = Field(default=None, description="what of the split was measured, if not all")
    language: str | None = None
    role: str | None = None
    templates: tuple[str, ...] = Field(default=(), description="prompts with {} for the class name")
    options: dict[str, str | int | float | bool] = Field(
        default={}, description="what else the task was told: its convention, its index, its k"
    )
    notes: tuple[str, ...] = Field(default=(), description="what a reader of these figures must know")
    store_fingerprint: Sha256
    head_sha256: Sha256 | None = Field(
        default=None, description="of the head's record; none: two towers of one model, without a head"
    )
    image_card: EncoderCard | None = Field(default=None, description="none: no image feature was read")
    text_card: EncoderCard | None = Field(default=None, description="none: no text feature was read")
    versions: dict[str, str] = Field(default={}, description="library name to version")
    device: Literal["cpu", "cuda", "mps"] = "cpu"
    seed: Count = 0
    per_class: dict[str, Figure] = Field(
        default={}, description="recall of each class, of segmentation its IoU, where classes are meant"
    )
    outcomes_sha256: Sha256 | None = Field(
        default=None, description="of the file of the rows' outcomes beside the report; none: there is none"
    )
    confused: tuple[Confusion, ...] = Field(
        default=(), description="the classes most often taken for others, the most frequent first"
    )


class BenchReports(Document):
    """Several tasks of one store and head: task -> report, and task -> why it was left out."""

    format_version: Positive = FORMAT_VERSION
    reports: dict[Name, BenchReport]
    left_out: dict[Name, str] = Field(default={}, description="task to the reason")
