"""Cards: what an encoder is, down to its weights, pixels and token ids."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from embedstore.documents.base import (
    WITHOUT_MEASURED,
    Count,
    Document,
    Positive,
    Sha256,
    differing_fields,
    without_unset,
)

if TYPE_CHECKING:
    from pydantic.config import JsonDict


# Fields that came later than the first cards: left out where they are not set, so that the fingerprint of a
# card does not depend on who reads it.
_LATER_FIELDS = frozenset({"head", "padded_to", "positions", "probe", "view"})


class ProcessorCard(Document):
    """Everything that decides the pixels which an image encoder sees."""

    class_name: str
    backend: Literal["pil", "torchvision", "open_clip", "timm", "python"]
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
    padded_to: Positive | None = Field(
        default=None, description="places that the model always sees, padding without a mask included"
    )

    @model_serializer(mode="wrap")
    def _leave_out_what_is_not_set(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_unset(whole(self), _LATER_FIELDS)


class ViewCard(Document):
    """How a picture is changed before the processor sees it: a pure function of these and the row's id."""

    kind: str = Field(description="with every option, e.g. 'random-resized-crop?scale=0.08,1&ratio=...'")
    seed: Count
    number: Positive = Field(description="which of the views of this kind and seed")


class HeadCard(Document):
    """The fitted head whose joint embeddings a feature holds."""

    sha256: Sha256 = Field(description="of the head's record, which names its weights, as in reports")
    encoder_sha256: Sha256 = Field(
        description="over the identity of the card of the encoder whose features the head reads"
    )


# Pooling of imported tokens, in the words of the card.
IMPORTED_MEAN = "mean of the tokens, taken at the import"

# How far apart the values of two probes may be: sixty times what other kernels change in trained models of 12
# layers, and less than what another way to compute GELU does; docs/encoders.md has the figures.
PROBE_TOLERANCE = 3e-4

# Neither the name that a model had nor how it was run changes what its numbers are, up to rounding.
FREE_FIELDS = frozenset({"model", "revision", "versions", "device_kind", "compute_dtype", "positions"})


_NEEDS: dict[str, JsonDict] = {
    "image": {"processor": {"type": "object"}, "grid": {"type": "array"}},
    "text": {"tokenizer": {"type": "object"}},
}
_KNOWN: JsonDict = {"layer": {"type": "integer"}, "final_norm": {"type": "boolean"}}


class EncoderCard(Document):
    """The identity of a feature: two features with different cards are different features."""

    model_config = ConfigDict(
        json_schema_extra={
            "allOf": [
                {
                    "if": {
                        "properties": {
                            "modality": {"const": modality},
                            "library": {"not": {"enum": ["imported", "embedstore"]}},
                        },
                    },
                    "then": {"required": list(needed), "properties": {**needed, **_KNOWN}},
                }
                for modality, needed in _NEEDS.items()
            ]
        }
    )

    modality: Literal["image", "text"]
    library: Literal[
        "transformers", "sentence-transformers", "open_clip", "timm", "python", "imported", "embedstore"
    ] = Field(description="what ran the model; 'embedstore': a fitted head on features of another card")
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
    positions: str | None = Field(
        default=None,
        description="how positions were fitted to a size that is not the checkpoint's own: "
        "'interpolated from 37x37', 'rotary'",
    )
    view: ViewCard | None = Field(
        default=None, description="the augmented view of each picture; none: the picture itself"
    )
    head: HeadCard | None = Field(
        default=None, description="the head that made joint embeddings (library 'embedstore'); else none"
    )
    processor: ProcessorCard | None = None
    tokenizer: TokenizerCard | None = None
    probe: tuple[float, ...] | None = Field(
        default=None,
        max_length=64,
        description="what the model makes of a fixed input in float32, which tells apart configurations of "
        "equal tensors; measured: compared up to rounding, in no fingerprint; none: not known",
    )
    compute_dtype: Literal["float32", "bfloat16", "float16", "unknown"] = "float32"
    device_kind: Literal["cpu", "cuda", "mps", "unknown"] = "cpu"
    versions: dict[str, str] = Field(description="library name to version")

    @model_serializer(mode="wrap")
    def _leave_out_what_is_not_set(
        self, whole: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        fields = without_unset(whole(self), _LATER_FIELDS)
        if info.context == WITHOUT_MEASURED:
            fields.pop("probe", None)
        return fields

    @property
    def has_cls(self) -> bool:
        """Whether the first prefix token is CLS; there are encoders with registers alone."""
        return self.prefix > self.registers

    @property
    def runs_an_encoder(self) -> bool:
        """Whether a frozen encoder made the feature; else (imported, joint) the card knows no tokens."""
        return self.library not in ("imported", "embedstore")

    @property
    def identity_sha256(self) -> str:
        """sha256 over `identity`: the same for every run of the same encoder."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()

    @property
    def plain(self) -> EncoderCard:
        """The card of the same encoder over the pictures themselves."""
        return self if self.view is None else self.model_copy(update={"view": None})

    @property
    def identity(self) -> dict[str, Any]:
        """What must agree for two runs to give the same numbers up to rounding: all but `FREE_FIELDS`.

        So must their probes, which `differences` compares.
        """
        return self.model_dump(mode="json", exclude=set(FREE_FIELDS), context=WITHOUT_MEASURED)

    def differences(self, theirs: EncoderCard) -> dict[str, tuple[Any, Any]]:
        """`field.path -> (ours, theirs)` of everything for which two runs give different numbers."""
        return {
            name: values
            for name, values in differing_fields(self, theirs).items()
            if name.partition(".")[0] not in FREE_FIELDS
        }

    def measured_apart(self, theirs: Self) -> dict[str, tuple[str, str]]:
        """The probe, where nothing else says why it differs and both are known."""
        ours, other = self.probe, theirs.probe
        # Of another length is one that another version of this library summed up otherwise.
        if ours is None or other is None or len(ours) != len(other) or self.identity != theirs.identity:
            return {}
        apart = max((abs(a - b) for a, b in zip(ours, other, strict=True)), default=0.0)
        if apart <= PROBE_TOLERANCE:
            return {}
        told = (
            f"outputs {apart:.2g} away from these (rounding: {PROBE_TOLERANCE:g}), so equal tensors, another "
            "configuration: activation, heads, epsilon, ..."
        )
        return {"probe": ("outputs for a fixed input", told)}

    @model_validator(mode="after")
    def _parts_fit_the_modality(self) -> Self:
        if (self.head is not None) != (self.library == "embedstore"):
            raise ValueError("the card of joint embeddings, and no other, names a head")
        if not self.runs_an_encoder:
            return self
        if self.layer is None or self.final_norm is None:
            raise ValueError("only an imported feature may leave its layer or final norm unknown")
        for name in _NEEDS[self.modality]:
            if getattr(self, name) is None:
                raise ValueError(f"the card of an encoder of {self.modality}s needs a {name}")
        return self
