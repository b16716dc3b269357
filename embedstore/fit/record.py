"""The record of a head to be: what a configuration asks for, sized by the features' cards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedstore.documents import FitConfig, HeadConfig
from embedstore.errors import HeadError, UsageError

if TYPE_CHECKING:
    from embedstore.store import Feature, Store


def head_record(store: Store, config: FitConfig) -> HeadConfig:
    """The head that `config` asks for on the features of `store`, sizes derived from their cards."""
    image, text = store[config.image], store[config.text]
    for feature, table in ((image, "images"), (text, "texts")):
        if feature.table != table:
            raise UsageError(
                f"{feature.name!r} is a feature of {feature.table}", where="fit", allowed=f"one of {table}"
            )
    _refuse_sides_without_tokens(config, image, text)
    shared = set(HeadConfig.model_fields) & set(FitConfig.model_fields) - {"temperature"}
    return HeadConfig(
        **{name: getattr(config, name) for name in sorted(shared)},
        image_width=image.card.width,
        image_cls_width=image.card.width if image.card.prefix else image.card.pooled_width,
        text_width=text.card.width,
        image_feature=image.name,
        text_feature=text.name,
        image_card=image.card,
        text_card=text.card,
        store_fingerprint=store.fingerprint,
        stores=store.lineage,
        trained_on=config.split,
        chosen=config.val_split is not None or config.val_fraction > 0,
        chosen_on=config.val_split or (config.split if config.val_fraction > 0 else None),
    )


def _refuse_sides_without_tokens(config: FitConfig, image: Feature, text: Feature) -> None:
    """A feature with pooled embeddings alone (imported) has nothing for a side that reads tokens."""
    for feature, side, kind, other in (
        (image, "image_local", config.image_local, "image_cls, which projects the pooled embedding"),
        (text, "text_token", config.text_token, "text_global, which projects the pooled embedding"),
    ):
        if "tokens" not in feature.arrays and kind != "identity":
            raise HeadError(
                f"{side} {kind!r} needs tokens, and this feature has only pooled embeddings",
                where=feature.name,
                allowed=f"{side} 'identity', with {other}",
                todo=f"add --{side.replace('_', '-')} identity, or fit on a feature with tokens",
            )
