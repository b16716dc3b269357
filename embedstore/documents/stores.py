"""What lies in a store: its plan, the headers, records and manifests of its features."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer

from embedstore.documents.base import (
    FORMAT_VERSION,
    Count,
    Document,
    Name,
    Positive,
    Sha256,
    without_unset,
)
from embedstore.documents.cards import EncoderCard
from embedstore.errors import UsageError
from embedstore.policies import PATTERN, parse_policy

Table: TypeAlias = Literal["images", "texts"]
ArrayName: TypeAlias = Literal[
    "tokens",
    "scales",
    "weights",
    "prefix",
    "prefix_scales",
    "pooled",
    "pooled_scales",
    "lengths",
    "status",
]
StoredType: TypeAlias = Literal["float16", "float32", "int32", "uint16", "uint8", "int8"]


def _known_policy(name: str) -> str:
    try:
        return parse_policy(name).name
    except UsageError as bad:
        raise ValueError(f"{bad.problem}; allowed: {bad.allowed}") from None


PolicyName: TypeAlias = Annotated[
    str,
    AfterValidator(_known_policy),
    Field(
        json_schema_extra={"pattern": PATTERN},
        description="how values become bytes, e.g. 'float16', 'int8', 'merge-32+int8'; docs/policies.md",
    ),
]


class Plan(Document):
    """Row order and identity of a store; written once, before any model runs."""

    format_version: Positive = FORMAT_VERSION
    source: dict[str, str | int | float | bool] = Field(
        description="the source's own identity, free of paths"
    )
    source_sha256: Sha256 = Field(
        description="over ids, texts, labels, splits, picture names and sizes in row order"
    )
    order: Literal["shuffled", "source"]
    seed: Count = 0
    limit: Positive | None = Field(default=None, description="rows taken from the source at most")
    images: Count = Field(description="rows of the images table")
    texts: Count = Field(description="rows of the texts table")
    classes: tuple[str, ...] = Field(default=(), description="class names; the position is the id in masks")
    splits: dict[str, Count] = Field(
        default={}, description="split to images; rows without a split are left out"
    )
    languages: dict[str, Count] = Field(default={}, description="language to texts")
    roles: dict[str, Count] = Field(default={}, description="role to texts")
    masks: bool = False


class ArraySpec(Document):
    """One Zarr array of a feature. The first axis is rows (for packed text tokens: token places)."""

    name: ArrayName
    shape: tuple[Count, ...]
    dtype: StoredType
    shard: Positive = Field(description="places along the first axis in one shard")
    chunk: Positive = Field(description="places along the first axis in one inner chunk")


class Origin(Document):
    """The feature from whose stored values another one was made."""

    feature: Name
    manifest_fingerprint: Sha256


# Fields that came later than the first stores: left out where they are not set, so that the fingerprint of a
# header does not depend on who reads it.
_LATER_FIELDS = frozenset({"calibration_sha256", "origin"})


class FeatureHeader(Document):
    """What is decided before the first unit of a feature is written; committed exclusively."""

    format_version: Positive = FORMAT_VERSION
    name: Name
    table: Table
    rows: Count
    shard_rows: Positive = Field(description="rows of one work unit")
    units: Count
    max_tokens: Count = Field(
        default=0,
        description="token places a row in the packed text tokens; 0 for images. Of an imported feature: "
        "tokens of a row (texts: at most), 0 where it has only pooled embeddings",
    )
    policy: PolicyName
    thumbnails: Count = Field(
        default=0, description="longer side in pixels of the thumbnails kept here; 0: none"
    )
    card: EncoderCard
    arrays: tuple[ArraySpec, ...]
    plan_fingerprint: Sha256
    calibration_sha256: Sha256 | None = Field(
        default=None, description="of calibration.safetensors, where the policy learns something"
    )
    origin: Origin | None = Field(default=None, description="where it was recoded from another feature")

    @model_serializer(mode="wrap")
    def _leave_out_what_is_not_set(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_unset(whole(self), _LATER_FIELDS)

    def array(self, name: ArrayName) -> ArraySpec | None:
        """The spec of one array, or none where the feature has no such array."""
        return next((a for a in self.arrays if a.name == name), None)

    def unit_rows(self, unit: int) -> range:
        """Table rows of one work unit."""
        return range(unit * self.shard_rows, min((unit + 1) * self.shard_rows, self.rows))


class QuarantinedRow(Document):
    """A row that could not be read; it keeps its place in every array."""

    row: Count
    id: str
    reason: str


class ShardFile(Document):
    """One file of a work unit. `crc32c` is of the whole file, `index_crc32c` of a Zarr shard's index."""

    path: str = Field(description="relative to the feature's folder")
    nbytes: Count
    crc32c: Count
    index_crc32c: Count | None = None


class UnitRecord(Document):
    """The journal of one finished work unit; its existence, agreeing with its files, means 'done'."""

    unit: Count
    rows: tuple[Count, Count] = Field(description="first row and one past the last")
    header_fingerprint: Sha256
    files: tuple[ShardFile, ...]
    tokens: Count = Field(description="tokens stored in this unit")
    quarantined: tuple[QuarantinedRow, ...] = ()


class FeatureManifest(Document):
    """Written when a feature is complete: the header and the sums over all units."""

    header: FeatureHeader
    quarantined: Count
    tokens: Count
    nbytes: Count
    units_sha256: Sha256 = Field(description="over the consolidated unit records")
