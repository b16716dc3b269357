"""Options that one kind of head has for itself: `[options]` of a configuration, `--set NAME=VALUE`."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from embedstore.documents.base import Count, Document, Positive, Rate

OptionValue: TypeAlias = bool | int | float | str


class NoOptions(Document):
    """Of a head that has none."""


class DalipOptions(Document):
    """What the head 'dalip' is made of besides the four projectors of its first order."""

    second: Literal["mbdc", "bdc", "mp", "kspd"] = Field(
        default="mbdc", description="second order; 'bdc' is 'mbdc' with one head"
    )
    heads: Positive = Field(default=4, description="h, groups of channels; divides the joint width")
    reduced: Annotated[int, Field(ge=2)] = Field(
        default=46, description="r, channels of a head after reducing"
    )
    lambda1: float = Field(
        default=0.4,
        ge=0,
        le=1,
        description="weight of the first order; the second has the rest; 1 or 0: one alone",
    )
    channel_dropout: Rate = Field(
        default=0.5, description="share of the reduced channels dropped, per sample"
    )
    image_anchor: Literal["auto", "cls", "mean"] = Field(
        default="auto", description="auto: CLS (pooled where there is none) where it is as wide as the tokens"
    )
    text_anchor: Literal["auto", "last", "first", "mean"] = Field(
        default="auto",
        description="auto: the token that the encoder's pooling reads, or the mean; EOT is the last",
    )
    convention: Literal["ours", "dalip"] = Field(
        default="ours", description="whether attention weighs tokens after the norm, or before it as in DALIP"
    )
    score: Literal["both", "first"] = Field(
        default="both",
        description="what is compared once it is fitted; DALIP's code compares the first order",
    )


class SailOptions(Document):
    """What the head 'sail' is made of."""

    expansion: Positive = Field(default=8, description="hidden width over input width")


class DinotxtOptions(Document):
    """What the head 'dinotxt' is made of besides the two projectors of its text side."""

    blocks: Count = Field(default=2, description="transformer blocks over CLS, registers and patches")
    head_width: Positive = Field(
        default=64, description="channels of an attention head; divides the tokens' width"
    )
    expansion: Positive = Field(default=4, description="hidden width of a block over its width")
    project: bool = Field(
        default=True, description="linear map to the joint width; false: the joint width is twice the tokens'"
    )
