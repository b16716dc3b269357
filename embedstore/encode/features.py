"""From encoder specs to features: names, cards and headers, checked before the first picture is opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from embedstore.documents import FeatureHeader, parse_named
from embedstore.encoders import default_name, load_image_encoder, load_text_encoder
from embedstore.errors import UsageError
from embedstore.store import begun_headers, plan_feature

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from embedstore.documents import Plan
    from embedstore.encode.options import EncodeOptions
    from embedstore.encoders.base import ImageEncoder, TextEncoder


@dataclass(frozen=True, kw_only=True)
class ImageJob:
    """An image feature to be made, and the encoder that makes it.

    `spec`: what the user called the encoder, where they did. `continues`: folder of the feature that it
    continues, whose calibration it shares.
    """

    header: FeatureHeader
    encoder: ImageEncoder
    spec: str | None = None
    continues: Path | None = None


@dataclass(frozen=True, kw_only=True)
class TextJob:
    """A text feature to be made, and the encoder that makes it; `continues` as of an `ImageJob`."""

    header: FeatureHeader
    encoder: TextEncoder
    spec: str | None = None
    continues: Path | None = None


FeatureJob: TypeAlias = ImageJob | TextJob


def plan_features(
    plan: Plan,
    store: Path,
    image_encoders: Sequence[str],
    text_encoders: Sequence[str],
    options: EncodeOptions,
) -> list[FeatureJob]:
    """Load every encoder and decide every header; nothing is written.

    Raises `UsageError` where two features share a name or the store has no rows for an encoder.
    """
    images = [_named(text) for text in image_encoders]
    texts = [_named(text) for text in text_encoders]
    names = [name for name, _ in images + texts]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                "two features share a name", found=name, todo="give one of them another: NAME=SPEC"
            )
    if images and not plan.images:
        raise UsageError("the source has no pictures", todo="leave out --image-encoder")
    if texts and not plan.texts:
        raise UsageError("the source has no captions", todo="leave out --text-encoder")
    begun = begun_headers(store)
    jobs: list[FeatureJob] = []
    for name, spec in images:
        vision = load_image_encoder(spec, device=options.device, image_size=options.image_size)
        header = plan_feature(
            name=name,
            plan=plan,
            card=vision.card,
            policy=options.policy,
            shard_rows=options.shard_rows,
            thumbnails=_thumbnails(name, begun, options),
        )
        begun = begun | {name: header}
        jobs.append(ImageJob(spec=spec, header=header, encoder=vision))
    for name, spec in texts:
        words = load_text_encoder(spec, device=options.device, max_length=options.max_length)
        header = plan_feature(
            name=name, plan=plan, card=words.card, policy=options.policy, shard_rows=options.shard_rows
        )
        jobs.append(TextJob(spec=spec, header=header, encoder=words))
    return jobs


def _named(text: str) -> tuple[str, str]:
    name, spec = parse_named(text)
    return name or default_name(spec), spec


def _thumbnails(name: str, begun: dict[str, FeatureHeader], options: EncodeOptions) -> int:
    """The first image feature of a store keeps the thumbnails; a feature that is begun goes on as it was."""
    if name in begun:
        return begun[name].thumbnails
    return 0 if any(h.thumbnails for h in begun.values()) else options.thumbnails
