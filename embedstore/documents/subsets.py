"""What a subset of a store's rows is, and how it came to be."""

from __future__ import annotations

from typing import Literal, Self, TypeAlias

from pydantic import Field, model_validator

from embedstore.documents.base import FORMAT_VERSION, Count, Document, Name, Positive, Sha256
from embedstore.documents.stores import Table

Setting: TypeAlias = bool | int | float | str | None
SubsetColumn: TypeAlias = Literal["reason", "concept", "rank", "score", "twin", "parent"]


class SubsetParent(Document):
    """Something that a subset was made from or compared with."""

    kind: Literal["subset", "store", "feature", "head", "prototypes"]
    name: str | None = Field(default=None, max_length=200, description="never a path")
    sha256: Sha256 = Field(description="fingerprint of its card, plan, manifest or configuration")


class RowsRecord(Document):
    """Rows that a head was fitted on or a bench measured, because the user named them."""

    name: str = Field(max_length=200, description="of the subset, the store or the file of ids; never a path")
    table: Table
    rows: Count = Field(description="rows that it names, before anything else narrows them")
    sha256: Sha256 = Field(description="of the subset's cards, of the ids, or the store's fingerprint")
    splits: tuple[str, ...] = Field(default=(), description="splits of its images, where they have one")
    share: float | None = Field(default=None, gt=0, description="of an epoch that mixes several, relative")


class SubsetFile(Document):
    """Size and checksum of one of its Parquet files."""

    nbytes: Count
    crc32c: Count


class SubsetCard(Document):
    """A named choice of rows of one table; written last, so that a subset with a card is whole."""

    format_version: Positive = FORMAT_VERSION
    name: Name
    table: Table
    store_fingerprint: Sha256 = Field(
        description="of the store whose row numbers these are; in any other, rows are found by their ids"
    )
    stores: tuple[Sha256, ...] = Field(
        default=(), description="fingerprints of its parts, where it was made from several stores as one"
    )
    verb: Name = Field(description="what made it: collect, dedup, ids, ...")
    settings: dict[str, Setting | tuple[Setting, ...]] = Field(
        default={}, description="everything that the choice depends on; never a path"
    )
    parents: tuple[SubsetParent, ...] = ()
    kept: Count = Field(description="rows of the subset")
    dropped: Count = Field(default=0, description="rows that are told of because they were left out")
    counts: dict[str, Count] = Field(default={}, description="what else was counted, e.g. rows considered")
    columns: tuple[SubsetColumn, ...] = Field(
        default=(), description="columns that hold anything, besides row and id"
    )
    rows_file: SubsetFile
    dropped_file: SubsetFile | None = Field(default=None, description="where any row is told of as dropped")

    @model_validator(mode="after")
    def _dropped_rows_have_a_file(self) -> Self:
        if (self.dropped > 0) != (self.dropped_file is not None):
            raise ValueError("dropped_file is there where dropped is above 0, and only there")
        return self
