"""`embedstore info`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedstore_cli import options as opt
from embedstore_cli import render

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedstore.documents import EncoderCard, PrototypesCard, SubsetCard
    from embedstore.store import FeatureInfo, StoreInfo


def info(store: opt.StorePath, json: opt.Json = False) -> None:
    """Tell what a store holds: tables, features, cards, bytes, progress, subsets and prototypes.

    Reads no tokens.
    """
    from embedstore.store import store_info

    found = store_info(store)
    render.print_json(found.to_dict()) if json else _show(found)


def _show(found: StoreInfo) -> None:
    plan = found.plan
    render.heading(f"{plan.images} images, {plan.texts} texts, {render.size(found.nbytes)}")
    for part in found.parts:
        render.say(f"  {part}")
    order = f"order {plan.order}, seed {plan.seed}"
    render.say(f"source {_pairs(plan.source)}; {order}")
    for title, counts in (("splits", plan.splits), ("languages", plan.languages), ("roles", plan.roles)):
        if counts:
            render.say(f"{title}: {_pairs(counts)}")
    if plan.classes:
        render.say(f"classes: {len(plan.classes)}")
    if not found.features:
        render.say("no features yet")
    for feature in found.features:
        _show_feature(feature)
    _show_list("subsets", [_describe_subset(card) for card in found.subsets])
    _show_list("prototypes", [_describe_prototypes(card) for card in found.prototypes])


def _show_list(title: str, lines: Sequence[str]) -> None:
    if lines:
        render.say()
        render.heading(title)
    for line in lines:
        render.say(f"  {line}")


def _show_feature(feature: FeatureInfo) -> None:
    header = feature.header
    render.say()
    done = "complete" if feature.complete else f"{feature.units_done} of {header.units} units"
    render.heading(f"{header.name}: {header.table}, {header.policy}, {render.size(feature.nbytes)}, {done}")
    render.say(f"  {_describe(header.card)}")
    for array in header.arrays:
        shape = " × ".join(map(str, array.shape))
        render.say(
            f"  {array.name:8} {shape} {array.dtype}, shards of {array.shard}, chunks of {array.chunk}"
        )
    if feature.quarantined:
        count = sum(feature.quarantined.values())
        render.warn(f"{header.name}: {count} rows quarantined: {_pairs(feature.quarantined)}")


def _describe(card: EncoderCard) -> str:
    parts = [f"{card.architecture} {card.model}", f"weights {card.weights_sha256[:12]}", f"{card.width} wide"]
    if card.processor is not None:
        height, width = card.processor.size
        parts.append(f"{height} × {width} px by {card.processor.class_name} ({card.processor.backend})")
    if card.view is not None:
        parts.append(f"view {card.view.number} of {card.view.kind}, seed {card.view.seed}")
    if card.tokenizer is not None:
        parts.append(f"up to {card.tokenizer.max_length} tokens")
    if card.layer not in (None, -1):
        parts.append(f"layer {card.layer}")
    if card.positions is not None:
        parts.append(f"positions {card.positions}")
    parts.append(f"pooled {card.pooling}")
    return ", ".join(parts)


def _describe_subset(card: SubsetCard) -> str:
    parts = [f"{card.name}: {card.kept} {card.table} by {card.verb}"]
    parts += [f"{name} {value}" for name, value in card.settings.items()]
    if card.dropped:
        parts.append(f"{card.dropped} told of as dropped")
    if len(card.stores) > 1:
        parts.append(f"made of {len(card.stores)} stores as one")
    return ", ".join(parts)


def _describe_prototypes(card: PrototypesCard) -> str:
    space = (
        f"in the joint space of head {card.head_sha256[:12]}"
        if card.head_sha256 is not None
        else f"by {card.card.model}"
    )
    return f"{card.name}: {len(card.concepts)} concepts of {card.each} each, {card.width} wide, {space}"


def _pairs(counts: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
