"""The record of a head to be: what a configuration asks for, sized by the features' cards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedstore.documents import FitConfig, HeadConfig
from embedstore.errors import HeadError, UsageError
from embedstore.fit.rows import training_rows
from embedstore.heads.base import Head, head_type

if TYPE_CHECKING:
    from embedstore.store import Feature, Store


def head_record(store: Store, config: FitConfig) -> HeadConfig:
    """The head that `config` asks for on the features of `store`, sizes derived from their cards."""
    kind, image, text = head_type(config.head), store[config.image], store[config.text]
    for feature, table in ((image, "images"), (text, "texts")):
        if feature.table != table:
            raise UsageError(
                f"{feature.name!r} is a feature of {feature.table}", where="fit", allowed=f"one of {table}"
            )
    options = kind.options_of(config.options)
    text_pooling = config.text_pooling or kind.text_pooling
    _refuse_unread(config, kind)
    _refuse_sides_without_tokens(config, kind, image, text)
    fewer = image.coder.policy.fewer_tokens
    shared = set(HeadConfig.model_fields) & set(FitConfig.model_fields)
    shared -= {"temperature", "options", "text_pooling", "rows"}
    return HeadConfig(
        **{name: getattr(config, name) for name in sorted(shared)},
        options=options.model_dump(mode="json"),
        text_pooling=text_pooling,
        image_shrink=fewer.name if fewer.shrinks else None,
        image_width=image.card.width,
        image_cls_width=image.card.width if image.card.has_cls else image.card.pooled_width,
        text_width=text.card.pooled_width if text_pooling == "pooled" else text.card.width,
        image_feature=image.name,
        text_feature=text.name,
        image_card=image.card,
        text_card=text.card,
        store_fingerprint=store.fingerprint,
        stores=store.lineage,
        trained_on=config.split,
        rows=training_rows(store, config).record if config.rows or config.mix else (),
        chosen=config.val_split is not None or config.val_fraction > 0,
        chosen_on=config.val_split or (config.split if config.val_fraction > 0 else None),
    )


def _refuse_unread(config: FitConfig, kind: type[Head]) -> None:
    """A side that was chosen but is not in the head would go unnoticed."""
    if kind.reads is None:
        return
    for name in Head.SIDES:
        value, usual = getattr(config, name), FitConfig.model_fields[name].default
        if name not in kind.reads and value != usual:
            raise HeadError(
                f"the head {config.head!r} has no {name}",
                found=f"{name} {value!r}",
                allowed=", ".join(sorted(kind.reads)) or None,
                todo=f"leave {name} out, or fit another head",
            )


def _refuse_sides_without_tokens(config: FitConfig, kind: type[Head], image: Feature, text: Feature) -> None:
    """A feature with pooled embeddings alone (imported) has nothing for a side that reads tokens."""
    for feature in (image, text):
        if "tokens" not in feature.arrays and feature.table in kind.needs_tokens:
            raise HeadError(
                f"the head {config.head!r} needs tokens, and this feature has only pooled embeddings",
                where=feature.name,
                todo="fit on a feature with tokens, or the head 'token'",
            )
    for feature, side, other in (
        (image, "image_local", "image_cls, which projects the pooled embedding"),
        (text, "text_token", "text_global, which projects the pooled embedding"),
    ):
        read = kind.reads is None or side in kind.reads
        asked_for = feature is text and config.text_pooling == "pooled"
        chosen = getattr(config, side)
        if "tokens" not in feature.arrays and read and not asked_for and chosen != "identity":
            raise HeadError(
                f"{side} {chosen!r} needs tokens, and this feature has only pooled embeddings",
                where=feature.name,
                allowed=f"{side} 'identity', with {other}",
                todo=f"add --{side.replace('_', '-')} identity, or fit on a feature with tokens",
            )
