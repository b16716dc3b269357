"""What concept prototypes are, and how they came to be."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from embedstore.documents.base import FORMAT_VERSION, Count, Document, Name, Positive, Sha256
from embedstore.documents.cards import EncoderCard
from embedstore.documents.subsets import Setting


class PrototypesCard(Document):
    """A unit vector for each of some concepts; written last, so that prototypes with a card are whole."""

    format_version: Positive = FORMAT_VERSION
    name: Name
    made_of: Literal["images", "texts"] = Field(
        description="images: means of few-shot images; texts: of prompts with the class names"
    )
    concepts: tuple[str, ...] = Field(min_length=1, description="in the order of the vectors")
    counts: tuple[Count, ...] = Field(description="images or prompts that each concept is the mean of")
    width: Positive
    card: EncoderCard = Field(description="of the encoder, or of the feature, that the vectors came from")
    head_sha256: Sha256 | None = Field(
        default=None, description="of the head whose joint space it is; none: the encoder's own pooled space"
    )
    store_fingerprint: Sha256 = Field(description="of the store that the images or class names came from")
    settings: dict[str, Setting | tuple[Setting, ...]] = Field(
        default={}, description="everything else that they depend on; never a path"
    )
    left_out: dict[str, Count] = Field(default={}, description="images that were not used, and why")
    empty: tuple[str, ...] = Field(default=(), description="concepts asked for of which there was no image")
    vectors_sha256: Sha256 = Field(description="of the file of vectors")

    @model_validator(mode="after")
    def _one_count_a_concept(self) -> Self:
        if len(self.counts) != len(self.concepts) or len(set(self.concepts)) != len(self.concepts):
            raise ValueError("concepts are named once each, with a count each")
        return self

    @property
    def each(self) -> str:
        """How many images or prompts a concept is the mean of, in words."""
        low, high = min(self.counts), max(self.counts)
        of = self.made_of if self.made_of == "images" else "prompts"
        return f"{low} to {high} {of}" if low < high else f"{high} {of if high > 1 else of[:-1]}"
