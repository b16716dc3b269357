"""The record of a head to be: what a configuration asks for, sized by the features' cards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedstore.documents import FitConfig, HeadConfig
from embedstore.errors import UsageError

if TYPE_CHECKING:
    from embedstore.store import Store


def head_record(store: Store, config: FitConfig) -> HeadConfig:
    """The head that `config` asks for on the features of `store`, sizes derived from their cards."""
    image, text = store[config.image], store[config.text]
    for feature, table in ((image, "images"), (text, "texts")):
        if feature.table != table:
            raise UsageError(
                f"{feature.name!r} is a feature of {feature.table}", where="fit", allowed=f"one of {table}"
            )
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
        trained_on=config.split,
        chosen=config.val_split is not None or config.val_fraction > 0,
        chosen_on=config.val_split or (config.split if config.val_fraction > 0 else None),
    )
