"""What two bench reports of one task differ in."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from embedstore.documents.base import FORMAT_VERSION, Count, Document, Name, Positive, Sha256
from embedstore.documents.reports import Figure

# Metrics of which less is better.
LOWER_IS_BETTER = frozenset({"median_rank", "mean_rank", "outside-crop", "unlabelled"})
Verdict: TypeAlias = Literal["a", "b", "noise"]


class Difference(Document):
    """One metric of both reports, and B − A with its 95 % interval."""

    a: Figure
    b: Figure
    difference: Figure
    how: Literal["paired", "unpaired", "intervals"] = Field(
        description="paired: rows drawn alike from both; unpaired: from each by itself; intervals: from the "
        "intervals of the two reports, where rows are not told"
    )
    better: Verdict = Field(description="noise: the interval of the difference holds 0")


class Compared(Document):
    """One of the two reports."""

    file: str = Field(description="name of the file, without its folder")
    sha256: Sha256
    head_sha256: Sha256 | None = None
    store_fingerprint: Sha256


class Comparison(Document):
    """Two reports of one task: group -> metric -> difference, how each came about, and other settings."""

    format_version: Positive = FORMAT_VERSION
    task: Name
    a: Compared
    b: Compared
    metrics: dict[str, dict[str, Difference]]
    units: dict[str, Count] = Field(default={}, description="group to images that a paired bootstrap draws")
    unpaired: dict[str, str] = Field(default={}, description="group to why its rows were not paired")
    only: dict[str, Literal["a", "b"]] = Field(
        default={}, description="'group/metric' to the one report that has it"
    )
    settings: dict[str, tuple[str | None, str | None]] = Field(
        default={}, description="field to both values, where the reports depend on different things"
    )
    notes: tuple[str, ...] = Field(default=(), description="what a reader of these intervals must know")
    seed: Count = 0
    resamples: Positive


class Comparisons(Document):
    """Two documents of several reports: each task that both have, and the one document that has another."""

    format_version: Positive = FORMAT_VERSION
    comparisons: tuple[Comparison, ...]
    only: dict[Name, Literal["a", "b"]] = Field(default={}, description="task to the document that has it")
