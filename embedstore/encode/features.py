"""From encoder specs to features: names, cards and headers, checked before the first picture is opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from embedstore.documents import FeatureHeader, parse_named
from embedstore.encoders import cards_of, load_image_pass, load_text_passes, named_features
from embedstore.encoders.views import ViewedImages, parse_views
from embedstore.errors import UsageError
from embedstore.store import begun_headers, plan_feature
from embedstore.store.geometry import shared_shard_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from embedstore.documents import EncoderCard, Plan
    from embedstore.encode.options import EncodeOptions
    from embedstore.encoders.base import ImageEncoder, TextEncoder
    from embedstore.encoders.views import View


@dataclass(frozen=True, kw_only=True)
class ImageJob:
    """An image feature to be made, and the encoder that makes it.

    `output`: which of the encoder's features it is; jobs that share an encoder are made by one pass.
    `spec`: what gives this feature alone, where the user named the encoder. `continues`: folder of the
    feature that it continues, whose calibration it shares.
    """

    header: FeatureHeader
    encoder: ImageEncoder
    output: int = 0
    spec: str | None = None
    continues: Path | None = None


@dataclass(frozen=True, kw_only=True)
class TextJob:
    """A text feature to be made, and the encoder that makes it; the rest as of an `ImageJob`."""

    header: FeatureHeader
    encoder: TextEncoder
    output: int = 0
    spec: str | None = None
    continues: Path | None = None


FeatureJob: TypeAlias = ImageJob | TextJob


def passes_of(jobs: Iterable[FeatureJob]) -> list[list[FeatureJob]]:
    """The jobs that one forward pass makes together: of one encoder and of equal units, in their order."""
    passes: dict[tuple[int, int], list[FeatureJob]] = {}
    for job in jobs:
        passes.setdefault((id(job.encoder), job.header.shard_rows), []).append(job)
    return list(passes.values())


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
    views = parse_views(options.view, count=options.views, seed=options.view_seed)
    named = {text: named_features(text) for text in (*image_encoders, *text_encoders)}
    if views:
        named |= {text: _of_views(named[text], views) for text in image_encoders}
    names = [name for text in (*image_encoders, *text_encoders) for name, _ in named[text]]
    _refuse_what_cannot_be_meant(plan, names, images=bool(image_encoders), texts=bool(text_encoders))
    if views and not image_encoders:
        raise UsageError(
            "there is nothing to make views for", todo="add --image-encoder, or leave out --views"
        )
    begun = begun_headers(store)
    jobs: list[FeatureJob] = []
    for text in image_encoders:
        _, spec = parse_named(text)
        vision = load_image_pass(spec, device=options.device, image_size=options.image_size)
        features = named[text]
        if views:
            outputs = range(len(features) // len(views))
            vision = ViewedImages(vision, [(view, k) for view in views for k in outputs])
        names = [name for name, _ in features]
        thumbnails = _thumbnails(names, begun, options)
        headers = plan_pass(names, cards_of(vision), plan, options, begun=begun, thumbnails=thumbnails)
        made_by = _passes_of_views(vision, names, begun)
        begun = begun | {header.name: header for header in headers}
        jobs += [
            ImageJob(header=header, encoder=encoder, output=output, spec=alone)
            for header, (_, alone), (encoder, output) in zip(headers, features, made_by, strict=True)
        ]
    for text in text_encoders:
        _, spec = parse_named(text)
        features = list(named[text])
        for words in load_text_passes(spec, device=options.device, max_length=options.max_length):
            cards = cards_of(words)
            some, features = features[: len(cards)], features[len(cards) :]
            headers = plan_pass([name for name, _ in some], cards, plan, options, begun=begun)
            jobs += [
                TextJob(header=header, encoder=words, output=output, spec=alone)
                for output, (header, (_, alone)) in enumerate(zip(headers, some, strict=True))
            ]
    return jobs


def _refuse_what_cannot_be_meant(plan: Plan, names: Sequence[str], *, images: bool, texts: bool) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                "two features share a name", found=name, todo="give one of them another: NAME=SPEC"
            )
    if images and not plan.images:
        raise UsageError("the source has no pictures", todo="leave out --image-encoder")
    if texts and not plan.texts:
        raise UsageError("the source has no captions", todo="leave out --text-encoder")


def _of_views(features: Sequence[tuple[str, str]], views: Sequence[View]) -> list[tuple[str, str]]:
    return [(f"{name}-view{view.number}", spec) for view in views for name, spec in features]


def _passes_of_views(
    encoder: ImageEncoder, names: Sequence[str], begun: Mapping[str, FeatureHeader]
) -> list[tuple[ImageEncoder, int]]:
    """Which encoder makes each feature, and as which output.

    A view costs a forward pass of its own, so views that are added make no further ones of those that are
    there. Layers come from the same pass in any case.
    """
    old = [k for k, name in enumerate(names) if name in begun]
    new = [k for k, name in enumerate(names) if name not in begun]
    if not isinstance(encoder, ViewedImages) or not (old and new):
        return [(encoder, k) for k in range(len(names))]
    made = {
        k: (part, place)
        for some in (old, new)
        for part in [encoder.only(some)]
        for place, k in enumerate(some)
    }
    return [made[k] for k in range(len(names))]


def plan_pass(
    names: Sequence[str],
    cards: Sequence[EncoderCard],
    plan: Plan,
    options: EncodeOptions,
    *,
    begun: Mapping[str, FeatureHeader],
    thumbnails: Sequence[int] = (),
    like: Sequence[FeatureHeader] = (),
) -> list[FeatureHeader]:
    """The headers of the features of one pass: their units are of the same rows, so that they share batches.

    `begun`: those that are in the store, which keep the units that they have.
    `like`: the features that they continue, whose policy, thumbnails and calibration they share.
    """

    def header(place: int, shard_rows: int | None) -> FeatureHeader:
        old = like[place] if like else None
        return plan_feature(
            name=names[place],
            plan=plan,
            card=cards[place],
            policy=options.policy if old is None else old.policy,
            shard_rows=shard_rows,
            thumbnails=old.thumbnails if old else thumbnails[place] if thumbnails else 0,
            calibration_sha256=None if old is None else old.calibration_sha256,
        )

    if options.shard_rows is not None:
        return [header(place, options.shard_rows) for place in range(len(names))]
    held = {begun[name].shard_rows for name in names if name in begun}
    common = held.pop() if len(held) == 1 else shared_shard_rows([header(k, None) for k in range(len(names))])
    return [
        header(place, begun[name].shard_rows if name in begun else common) for place, name in enumerate(names)
    ]


def _thumbnails(names: Sequence[str], begun: dict[str, FeatureHeader], options: EncodeOptions) -> list[int]:
    """The first image feature of a store keeps the thumbnails; a feature that is begun goes on as it was."""
    kept: list[int] = []
    for name in names:
        elsewhere = any(kept) or any(h.thumbnails for h in begun.values())
        new = 0 if elsewhere else options.thumbnails
        kept.append(begun[name].thumbnails if name in begun else new)
    return kept
