"""What each storage policy of a feature saves, and what a head fitted from it loses."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from embedstore.documents.base import FORMAT_VERSION, Count, Document, Name, Positive, Sha256
from embedstore.documents.cards import EncoderCard
from embedstore.documents.heads import FitConfig
from embedstore.documents.reports import Figure
from embedstore.documents.stores import PolicyName


class PolicyScore(Document):
    """One accuracy of heads fitted from a policy, and policy − base; shares are fractions of 1."""

    value: Figure
    change: Figure | None = Field(default=None, description="none: this is the base")
    seeds: tuple[float, ...] = Field(description="the accuracy of each head, by seed")


class PolicyFigures(Document):
    """One policy. `recall` is Recall@1, the mean of both directions; `top_1` is zero-shot accuracy."""

    policy: PolicyName
    bytes: Count = Field(description="a picture, of everything but thumbnails")
    tokens: tuple[Count, ...] = Field(description="stored token places of a picture and their width")
    pictures_per_second: float = Field(description="read from the page cache and decoded to float32")
    cosine_error: float = Field(description="1 - cosine to the base, mean; 0 for the base")
    cosine_of: Literal["tokens", "means"] = Field(
        description="means: of a picture's tokens, weighted by their shares, where there are fewer tokens"
    )
    recall: PolicyScore
    top_1: PolicyScore | None = Field(default=None, description="none: no labels, or no text encoder")


class PolicyStudy(Document):
    """Storage policies of one image feature, the base first; heads of one seed begin alike."""

    format_version: Positive = FORMAT_VERSION
    feature: Name
    policies: tuple[PolicyFigures, ...]
    left_out: dict[str, str] = Field(default={}, description="policy to why it does not fit the feature")
    config: FitConfig = Field(description="of every head, but for the feature and the seed")
    seeds: Positive
    split: str | None = Field(description="measured rows; none: all")
    images: Count
    texts: Count
    notes: tuple[str, ...] = ()
    store_fingerprint: Sha256
    image_card: EncoderCard
    text_card: EncoderCard
    versions: dict[str, str] = Field(default={}, description="library name to version")
    device: Literal["cpu", "cuda", "mps"] = "cpu"
