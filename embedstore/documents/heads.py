"""What a fitted head is, and everything that a fit depends on."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from embedstore.documents.base import FORMAT_VERSION, Count, Document, Name, Positive, Rate, Sha256
from embedstore.documents.cards import EncoderCard
from embedstore.documents.head_options import OptionValue
from embedstore.documents.stores import PolicyName
from embedstore.documents.subsets import RowsRecord

Projection: TypeAlias = Literal["token", "mlp", "linear", "identity"]


# Fields that came later than the first heads: left out where they say nothing new, so that the fingerprint of
# a head, which names it in reports, does not depend on who reads it.
_LATER_FIELDS: dict[str, Any] = {"text_pooling": "mean", "image_shrink": None, "options": {}, "rows": ()}


class HeadConfig(Document):
    """A head without its weights: what it projects, how, and for which two encoders."""

    format_version: Positive = FORMAT_VERSION
    head: Name
    width: Positive = Field(description="e, the joint width; of each part where a head has several")
    image_local: Projection = "token"
    image_cls: Projection = "token"
    text_token: Projection = "token"
    text_global: Projection = "mlp"
    image_pooling: Literal["mean", "max"] = "mean"
    text_pooling: Literal["mean", "pooled"] = Field(
        default="mean",
        description="what the text side reads: all tokens, or the encoder's pooled embedding as one",
    )
    image_shrink: PolicyName | None = Field(
        default=None,
        description="how the patch tokens that it was fitted on were lessened: pool-2x2, merge-K, cls+mean; "
        "those of a fresh picture are lessened alike; none: all patches",
    )
    dropout: Rate = 0.1
    options: dict[str, OptionValue] = Field(
        default={}, description="all of the head's own, see docs/heads.md"
    )
    image_width: Positive = Field(description="d of the image tokens")
    image_cls_width: Positive = Field(description="d of CLS, or of pooled where an encoder has no CLS")
    text_width: Positive = Field(description="d of the text tokens, or of pooled where that is read")
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
    rows: tuple[RowsRecord, ...] = Field(
        default=(), description="what of these it was fitted on, where rows were chosen; several: a mix"
    )
    chosen: bool = Field(default=False, description="whether a best checkpoint was chosen; else the last one")
    chosen_on: str | None = Field(
        default=None, description="split whose images chose the checkpoint; none while `chosen`: any image"
    )
    weights_sha256: Sha256 | None = Field(default=None, description="of head.safetensors")

    @model_serializer(mode="wrap")
    def _leave_out_what_is_as_ever(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = whole(self).items()
        return {
            k: v
            for k, v in fields
            if k not in _LATER_FIELDS or (tuple(v) if isinstance(v, list) else v) != _LATER_FIELDS[k]
        }


class FitConfig(Document):
    """Everything a fit depends on besides the store's contents."""

    head: Name = "token"
    loss: Name = "clip"
    image: Name
    text: Name
    split: str | None = None
    rows: str | None = Field(
        default=None, description="subset of the store, or file of ids, whose rows alone are fitted on"
    )
    mix: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default={}, description="subset or store -> its share of every epoch and batch, relative"
    )
    language: str = "en"
    role: Literal["caption", "long"] = "caption"
    width: Positive = 512
    image_local: Projection = "token"
    image_cls: Projection = "token"
    text_token: Projection = "token"
    text_global: Projection = "mlp"
    image_pooling: Literal["mean", "max"] = "mean"
    text_pooling: Literal["mean", "pooled"] | None = Field(
        default=None,
        description="text tokens or the encoder's pooled embedding; none: as the head is used to",
    )
    dropout: Rate = 0.1
    options: dict[str, OptionValue] = Field(default={}, description="of the head's own, see docs/heads.md")
    epochs: Positive = 20
    batch_size: Annotated[int, Field(ge=2)] = 256
    micro_batch: Positive | None = Field(
        default=None, description="pictures embedded at a time for a batch_size that memory cannot hold"
    )
    lr: float = Field(default=1e-3, gt=0)
    min_lr: float = Field(default=1e-5, ge=0)
    weight_decay: float = Field(default=0.02, ge=0)
    warmup_epochs: float = Field(default=1.0, ge=0)
    warmup_steps: Count | None = Field(default=None, description="in place of warmup_epochs")
    warmup_share: Rate | None = Field(default=None, description="of all steps, in place of warmup_epochs")
    optimiser: Literal["adamw", "lion"] = "adamw"
    beta1: Rate | None = Field(default=None, description="of the first mean; none: 0.9")
    beta2: Rate | None = Field(default=None, description="of the second; none: adamw 0.999, lion 0.99")
    clip_norm: float | None = Field(default=None, gt=0, description="longest gradient; none: any")
    ema: Rate | None = Field(default=None, description="decay of averaged weights, which are kept; none: off")
    patience: Positive | None = Field(
        default=None, description="epochs without a better validation after which a fit stops; none: never"
    )
    temperature: float | None = Field(
        default=None,
        gt=0,
        description="τ at the start, learnt; none: the loss's own (clip 0.07, sigmoid 0.1)",
    )
    bias: float | None = Field(default=None, description="b of a sigmoid loss at the start; none: -10")
    captions: Positive = Field(default=1, description="different captions a picture brings to a step")
    positives: Literal["mean", "apart", "any"] | None = Field(
        default=None, description="how loss clip takes several captions of a picture; none: mean"
    )
    global_weight: float | None = Field(
        default=None, ge=0, description="λg of loss sparc, of whole pictures and texts; none: 0.5"
    )
    local_weight: float | None = Field(
        default=None, ge=0, description="λf of loss sparc, of words in their pictures; none: 1"
    )
    mask_duplicates: bool = Field(
        default=False, description="equal captions of two pictures are no negatives of each other"
    )
    val_split: str | None = Field(default=None, description="split the best checkpoint is chosen on")
    val_fraction: Rate = Field(default=0.0, description="share of the training rows held out instead")
    seed: Count = 0
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="of large products; auto: bfloat16 on a GPU, float32 elsewhere"
    )
    compile: bool = Field(
        default=False, description="whether a step's embeddings are made by torch.compile; up to rounding"
    )

    @model_serializer(mode="wrap")
    def _leave_out_what_is_as_ever(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = whole(self).items()
        return {k: v for k, v in fields if (k, v) not in (("precision", "auto"), ("compile", False))}
