"""Whether encoders that see alike are easier to align."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from embedstore.documents.base import FORMAT_VERSION, Count, Document, Name, Positive, Sha256
from embedstore.documents.cards import EncoderCard
from embedstore.documents.pairs import VectorKind
from embedstore.documents.reports import Figure
from embedstore.documents.subsets import RowsRecord


class EasePoint(Document):
    """Two sets of vectors of the same rows: how alike they are, and how low the loss falls."""

    image: Name | None = Field(default=None, description="feature that is mapped; none: of a toy world")
    text: Name | None = Field(default=None, description="feature that it is mapped to")
    cka: float = Field(description="linear CKA with the biased HSIC, as papers report it")
    cka_unbiased: float
    loss: float = Field(description="lowest CLIP loss that a linear map reached, nats")


class EaseReport(Document):
    """CKA against the lowest loss for many pairs of sets of vectors, and how the two correlate.

    metrics: the kind of CKA -> "pearson" (with the logarithm of the loss) and "spearman" -> figure; empty
    where the points are too few.
    """

    format_version: Positive = FORMAT_VERSION
    task: Literal["ease"] = "ease"
    points: tuple[EasePoint, ...]
    metrics: dict[str, dict[str, Figure]]
    vectors: Positive = Field(description="rows of each set")
    width: Positive | None = Field(default=None, description="of a toy world's vectors")
    hidden: Positive | None = Field(default=None, description="width inside a toy world's two networks")
    iterations: Positive = Field(description="steps of gradient descent on all rows")
    lr: float
    temperature: float
    kinds: dict[str, VectorKind] = Field(default={}, description="feature to what was read of it")
    skipped: dict[str, Count] = Field(default={}, description="reason to rows left out")
    split: str | None = None
    rows: RowsRecord | None = Field(default=None, description="what of the split was read, if not all")
    language: str | None = None
    role: str | None = None
    store_fingerprint: Sha256 | None = Field(default=None, description="none: toy worlds")
    cards: dict[str, EncoderCard] = Field(default={}, description="feature to its encoder")
    notes: tuple[str, ...] = Field(default=(), description="what a reader of these figures must know")
    versions: dict[str, str] = Field(default={}, description="library name to version")
    device: Literal["cpu", "cuda", "mps"] = "cpu"
    seed: Count = 0
