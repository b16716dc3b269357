"""The frozen documents that go to disk: each round-trips to JSON and has a schema in `schemas/v1/`.

No document holds a clock, a host, a path of the machine or a process id.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from embedstore.errors import EmbedstoreError, MismatchError, UsageError
from embedstore.policies import PATTERN, parse_policy

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic.config import JsonDict

FORMAT_VERSION = 1
MOST_DOCUMENT_BYTES = 64 << 20
NAME_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"

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
Projection: TypeAlias = Literal["token", "mlp", "linear", "identity"]
Name: TypeAlias = Annotated[str, Field(pattern=NAME_PATTERN, max_length=200)]
Sha256: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count: TypeAlias = Annotated[int, Field(ge=0)]
Positive: TypeAlias = Annotated[int, Field(ge=1)]
Rate: TypeAlias = Annotated[float, Field(ge=0.0, lt=1.0)]


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


class Document(BaseModel):
    """A frozen value that reads from and writes to JSON; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def to_json(self) -> str:
        """Stable text: two spaces, fields in declared order, one newline at the end."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(
        cls, text: str | bytes, *, where: object, error: type[EmbedstoreError] = EmbedstoreError
    ) -> Self:
        """Parse `text`; an `error` that names `where` and the first wrong field otherwise."""
        try:
            return cls.model_validate_json(text, strict=True)
        except ValidationError as bad:
            first = bad.errors()[0]
            field = ".".join(str(p) for p in first["loc"]) or "the document"
            raise error(
                f"{cls.__name__} is not valid: {field}: {first['msg']}",
                where=where,
                found=str(first.get("input"))[:200],
            ) from None

    @property
    def fingerprint(self) -> str:
        """sha256 over the canonical JSON of the document."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


DERIVED_FIELDS = frozenset({"arrays", "units", "plan_fingerprint"})


def differing_fields(ours: Document, theirs: Document) -> dict[str, tuple[Any, Any]]:
    """Flattened `field.path -> (ours, theirs)` of everything in which two documents differ."""

    def flat(value: Any, path: str) -> dict[str, Any]:
        if isinstance(value, dict) and value:
            return {k: v for key, sub in value.items() for k, v in flat(sub, f"{path}.{key}").items()}
        return {path.lstrip("."): value}

    a, b = flat(ours.model_dump(mode="json"), ""), flat(theirs.model_dump(mode="json"), "")
    return {k: (a.get(k), b.get(k)) for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)}


def refuse_differences(
    stored: Document,
    wanted: Document,
    *,
    what: str,
    where: object,
    todo: str,
    error: type[EmbedstoreError] = MismatchError,
) -> None:
    """Raise `error` that lists every differing field, or return where there is none."""
    fields = differing_fields(stored, wanted)
    if fields:
        # What follows from other fields only hides the one that the user can change.
        telling = {k: v for k, v in fields.items() if k not in DERIVED_FIELDS}
        fields = telling or fields
        lines = "; ".join(f"{k}: stored {a!r}, now {b!r}" for k, (a, b) in fields.items())
        raise error(f"{what} differs from the stored one", where=where, found=lines, todo=todo)


class ProcessorCard(Document):
    """Everything that decides the pixels which an image encoder sees."""

    class_name: str
    backend: Literal["pil", "torchvision", "open_clip", "timm"]
    size: tuple[Positive, Positive] = Field(description="height and width fed to the model, pixels")
    resize: str = Field(description="resize rule, e.g. 'shortest_edge=256' or 'exact=224x224'")
    crop: str | None = Field(description="e.g. 'center=224x224'; none where the whole picture is kept")
    interpolation: str = Field(description="e.g. 'bicubic', with '+antialias' where the backend does it")
    rescale: float = Field(description="factor on 8-bit values")
    mean: tuple[float, ...] = Field(description="per channel, after rescaling")
    std: tuple[float, ...] = Field(description="per channel, after rescaling")


class TokenizerCard(Document):
    """Everything that decides the token ids which a text encoder sees."""

    class_name: str
    sha256: Sha256 = Field(description="over the tokenizer's serialised form")
    max_length: Positive = Field(description="tokens, special tokens included; longer texts are cut")
    prompt: str = Field(default="", description="text put before every text")


# Neither the name that a model had nor how it was run changes what its numbers are, up to rounding.
FREE_FIELDS = frozenset({"model", "revision", "versions", "device_kind", "compute_dtype"})


_NEEDS: dict[str, JsonDict] = {
    "image": {"processor": {"type": "object"}, "grid": {"type": "array"}},
    "text": {"tokenizer": {"type": "object"}},
}


class EncoderCard(Document):
    """The identity of a feature: two features with different cards are different features."""

    model_config = ConfigDict(
        json_schema_extra={
            "allOf": [
                {
                    "if": {"properties": {"modality": {"const": modality}}},
                    "then": {"required": list(needed), "properties": needed},
                }
                for modality, needed in _NEEDS.items()
            ]
        }
    )

    modality: Literal["image", "text"]
    library: Literal["transformers", "sentence-transformers", "open_clip", "timm", "python", "imported"]
    architecture: str = Field(description="class of the model, e.g. 'Dinov2Model'")
    model: str = Field(description="hub id, or the last part of the folder's name; never a path")
    revision: str | None = Field(default=None, description="hub revision where one was asked for")
    weights_sha256: Sha256 = Field(
        description="over dtypes, shapes and bytes of all tensors that are used; libraries rename tensors"
    )
    layer: int | None = Field(
        default=-1, description="layer of the tokens, -1 the last; null: unknown (imported only)"
    )
    final_norm: bool | None = Field(
        description="whether the tokens passed the model's final norm; null: unknown (imported only)"
    )
    width: Positive = Field(description="d of the tokens; the pooled width where there are none")
    pooled_width: Positive = Field(description="width of the pooled embedding")
    pooling: str = Field(description="what the pooled embedding is, e.g. 'cls', 'mean', 'image_embeds'")
    grid: tuple[Positive, Positive] | None = Field(
        default=None, description="rows and columns of patch tokens"
    )
    prefix: Count = Field(default=0, description="CLS and register tokens, kept apart from the patches")
    registers: Count = Field(default=0, description="register tokens among the prefix")
    processor: ProcessorCard | None = None
    tokenizer: TokenizerCard | None = None
    compute_dtype: Literal["float32", "bfloat16", "float16", "unknown"] = "float32"
    device_kind: Literal["cpu", "cuda", "mps", "unknown"] = "cpu"
    versions: dict[str, str] = Field(description="library name to version")

    @property
    def identity(self) -> dict[str, Any]:
        """What must agree for two runs to give the same numbers up to rounding: all but `FREE_FIELDS`."""
        return self.model_dump(mode="json", exclude=set(FREE_FIELDS))

    @model_validator(mode="after")
    def _parts_fit_the_modality(self) -> Self:
        if self.library == "imported":
            return self
        if self.layer is None or self.final_norm is None:
            raise ValueError("only an imported feature may leave its layer or final norm unknown")
        for name in _NEEDS[self.modality]:
            if getattr(self, name) is None:
                raise ValueError(f"the card of an encoder of {self.modality}s needs a {name}")
        return self


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
        fields: dict[str, Any] = whole(self)
        return {k: v for k, v in fields.items() if v is not None or k not in _LATER_FIELDS}

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


class HeadConfig(Document):
    """A head without its weights: what it projects, how, and for which two encoders."""

    format_version: Positive = FORMAT_VERSION
    head: Name
    width: Positive = Field(description="e, the joint width")
    image_local: Projection = "token"
    image_cls: Projection = "token"
    text_token: Projection = "token"
    text_global: Projection = "mlp"
    image_pooling: Literal["mean", "max"] = "mean"
    dropout: Rate = 0.1
    image_width: Positive = Field(description="d of the image tokens")
    image_cls_width: Positive = Field(description="d of CLS, or of pooled where an encoder has no CLS")
    text_width: Positive = Field(description="d of the text tokens")
    image_feature: Name
    text_feature: Name
    image_card: EncoderCard
    text_card: EncoderCard
    temperature: float = Field(default=0.07, gt=0, description="τ at the end of fitting")
    store_fingerprint: Sha256 | None = Field(default=None, description="of the store it was fitted on")
    stores: tuple[Sha256, ...] = Field(
        default=(), description="of every store whose rows it was fitted on: parts of A+B, what was compacted"
    )
    trained_on: str | None = Field(default=None, description="split it was fitted on; none: every image")
    chosen: bool = Field(default=False, description="whether a best checkpoint was chosen; else the last one")
    chosen_on: str | None = Field(
        default=None, description="split whose images chose the checkpoint; none while `chosen`: any image"
    )
    weights_sha256: Sha256 | None = Field(default=None, description="of head.safetensors")


class FitConfig(Document):
    """Everything a fit depends on besides the store's contents."""

    head: Name = "token"
    loss: Name = "clip"
    image: Name
    text: Name
    split: str | None = None
    language: str = "en"
    role: Literal["caption", "long"] = "caption"
    width: Positive = 512
    image_local: Projection = "token"
    image_cls: Projection = "token"
    text_token: Projection = "token"
    text_global: Projection = "mlp"
    image_pooling: Literal["mean", "max"] = "mean"
    dropout: Rate = 0.1
    epochs: Positive = 20
    batch_size: Annotated[int, Field(ge=2)] = 256
    lr: float = Field(default=1e-3, gt=0)
    min_lr: float = Field(default=1e-5, ge=0)
    weight_decay: float = Field(default=0.02, ge=0)
    warmup_epochs: float = Field(default=1.0, ge=0)
    temperature: float = Field(
        default=0.07, gt=0, description="τ at the start; learnt, clamped to [0.001, 0.5]"
    )
    val_split: str | None = Field(default=None, description="split the best checkpoint is chosen on")
    val_fraction: Rate = Field(default=0.0, description="share of the training rows held out instead")
    seed: Count = 0


class Figure(Document):
    """One measured number with its 95 % bootstrap interval; shares are fractions of 1."""

    value: float
    low: float
    high: float


# Metrics that are not fractions of 1.
NOT_SHARES = frozenset({"median_rank"})


class BenchReport(Document):
    """What one bench task measured: direction -> metric -> figure, and everything it depends on."""

    format_version: Positive = FORMAT_VERSION
    task: Name
    metrics: dict[str, dict[str, Figure]]
    chance: dict[str, dict[str, float]] = Field(default={}, description="the same metrics for random scores")
    images: Count = 0
    texts: Count = 0
    classes: Count = 0
    skipped: dict[str, Count] = Field(default={}, description="reason to rows left out")
    split: str | None = None
    language: str | None = None
    role: str | None = None
    templates: tuple[str, ...] = Field(default=(), description="prompts with {} for the class name")
    notes: tuple[str, ...] = Field(default=(), description="what a reader of these figures must know")
    store_fingerprint: Sha256
    head_sha256: Sha256
    image_card: EncoderCard
    text_card: EncoderCard
    versions: dict[str, str] = {}
    device: Literal["cpu", "cuda", "mps"] = "cpu"
    seed: Count = 0
    per_class: dict[str, Figure] = Field(
        default={}, description="recall of each class, where classes are meant"
    )


PUBLISHED: tuple[type[Document], ...] = (
    EncoderCard,
    Plan,
    FeatureHeader,
    FeatureManifest,
    UnitRecord,
    HeadConfig,
    FitConfig,
    BenchReport,
)


D = TypeVar("D", bound=Document)


def read_bounded(path: Path, error: type[EmbedstoreError] = EmbedstoreError) -> bytes:
    """The bytes of a document; `error` where it cannot be read or is larger than any document may be."""
    try:
        size = path.stat().st_size
        if size > MOST_DOCUMENT_BYTES:
            raise error("the document is too large", where=path.name, found=f"{size} bytes")
        return path.read_bytes()
    except OSError as bad:
        raise error(f"cannot be read: {bad.strerror}", where=path.name) from None


def load_document(kind: type[D], path: Path, error: type[EmbedstoreError] = EmbedstoreError) -> D:
    """Read one JSON document from a local file."""
    return kind.from_json(read_bounded(path, error), where=path.name, error=error)


def parse_named(text: str) -> tuple[str | None, str]:
    """Split `[NAME=]SPEC`: NAME is `[A-Za-z0-9_.-]+` before the first `=` that precedes any of `: / ?`."""
    stop = min((i for i in (text.find(c) for c in ":/?") if i >= 0), default=len(text))
    at = text.find("=")
    if not 0 <= at < stop:
        return None, text
    name, spec = text[:at], text[at + 1 :]
    if not name or any(not (c.isascii() and (c.isalnum() or c in "_.-")) for c in name):
        raise UsageError("bad feature name", where=text, found=name, allowed="letters, digits, '_', '.', '-'")
    return name, spec
