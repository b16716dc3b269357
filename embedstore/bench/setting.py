"""What every task begins with: a store, a head that fits it, a device, and a split that may be measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.bench.versions import versions_of
from embedstore.encoders import load_text_encoder
from embedstore.encoders.device import device_kind, pick_device
from embedstore.errors import HeadError, UsageError
from embedstore.model import (
    FittedHead,
    StoredEmbeddings,
    feature_of_card,
    feature_of_head,
    load_head,
    stored_vectors,
)
from embedstore.store import Store, choose_rows, open_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

    from embedstore.documents import EncoderCard, HeadConfig, RowsRecord, Table
    from embedstore.shapes import Float32Array, IntArray
    from embedstore.store import Feature
    from embedstore.store.selection import Bools

# A multiple of every batch, so that batches do not depend on it.
ROWS_AT_ONCE = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """An open store, what embeds its rows, the features that it reads, and what to know about them.

    `text_feature`: none where a task reads no texts; `text_card`: of the encoder of prompts, where known.
    `rows (n,)`: the image rows that a task is narrowed to, none: all; `texts (m,)`: which texts count, none:
    all; `chosen`: what is told of them in a report, where they have a name.
    """

    store: Store
    embedder: FittedHead | StoredEmbeddings
    image: Feature
    text_feature: Feature | None
    text_card: EncoderCard | None
    notes: tuple[str, ...]
    rows: IntArray | None = None
    texts: Bools | None = None
    chosen: RowsRecord | None = None

    @property
    def head(self) -> FittedHead:
        """The head; `UsageError` where stored embeddings are measured without one."""
        if isinstance(self.embedder, StoredEmbeddings):
            raise UsageError("this task needs a head", todo="give one with --head DIR")
        return self.embedder

    @property
    def text(self) -> Feature:
        """The text feature; `UsageError` where the setting was opened without texts."""
        if self.text_feature is None:
            raise UsageError("this task reads texts", todo="name a text feature with --text NAME")
        return self.text_feature

    def embed_images(
        self, rows: IntArray, *, on_progress: Callable[[int, int], None] | None = None
    ) -> Float32Array:
        """Unit vectors `(n, e)` of image rows, in the order given: stored ones, or through the head."""
        stored = self.image.card.head is not None
        return _in_parts(
            rows,
            lambda part: (
                stored_vectors(self.image, part) if stored else self.embedder.embed_images(self.image, part)
            ),
            on_progress,
        )

    def embed_texts(
        self, rows: IntArray, *, on_progress: Callable[[int, int], None] | None = None
    ) -> Float32Array:
        """Unit vectors `(m, e)` of text rows, in the order given."""
        return _in_parts(rows, lambda part: self.embedder.embed_texts(self.text, part), on_progress)

    def report_fields(self, *libraries: str) -> dict[str, Any]:
        """Fields of a `BenchReport` that say what it depends on; `libraries`: more that a task uses."""
        return {
            "store_fingerprint": self.store.fingerprint,
            "head_sha256": self.embedder.sha256,
            "image_card": self.image.card,
            "text_card": self.text_card,
            "versions": versions_of(*libraries),
            "device": device_kind(self.embedder.device),
            "rows": self.chosen,
        }


def _in_parts(
    rows: IntArray,
    embed: Callable[[IntArray], Float32Array],
    on_progress: Callable[[int, int], None] | None,
) -> Float32Array:
    first = embed(rows[:ROWS_AT_ONCE])
    if on_progress is not None:
        on_progress(len(first), len(rows))
    # Filled part by part: parts joined at the end would need the memory of all twice.
    whole = np.empty((len(rows), first.shape[1]), np.float32)
    whole[: len(first)] = first
    for at in range(ROWS_AT_ONCE, len(rows), ROWS_AT_ONCE):
        part = embed(rows[at : at + ROWS_AT_ONCE])
        whole[at : at + len(part)] = part
        if on_progress is not None:
            on_progress(at + len(part), len(rows))
    return whole


def open_setting(
    store: Store | str | PathLike[str],
    head_dir: str | PathLike[str] | FittedHead,
    *,
    split: str | None,
    device: str = "auto",
    image: str | None = None,
    text: str | None = None,
    rows: IntArray | str | None = None,
    texts: bool = True,
) -> Setting:
    """Open everything a task needs. `image` and `text` choose features; none: found by the head's cards.

    `image` may be the joint embeddings that this head made. `head_dir` may be a head that is loaded, with a
    device of its own. `rows`: image rows, or the name of a subset or of a file of ids. `texts`: whether the
    store's texts are read; a store without any serves where they are not.

    `UsageError` where images of this split chose the head's checkpoint: such figures would be too good.
    `HeadError` where the store has no feature of one of the head's cards, or a chosen one is of another.
    """
    opened = store if isinstance(store, Store) else open_store(store)
    head = head_dir if isinstance(head_dir, FittedHead) else load_head(head_dir, device=pick_device(device))
    config = head.config
    images = (
        feature_of_card(opened, config.image_feature, config.image_card, shrink=config.image_shrink)
        if image is None
        else feature_of_head(opened, head, "images", image, option="--image")
    )
    words = _text_of_head(opened, head, text) if texts else None
    return Setting(
        store=opened,
        embedder=head,
        image=images,
        text_feature=words,
        text_card=config.text_card if words is None else words.card,
        notes=_check_split(opened, head, split),
        **_narrowed(opened, rows),
    )


def _text_of_head(store: Store, head: FittedHead, name: str | None) -> Feature:
    config = head.config
    if name is None:
        return feature_of_card(store, config.text_feature, config.text_card)
    head.check_text(store[name])
    return store[name]


def open_either(
    store: Store | str | PathLike[str],
    head_dir: str | PathLike[str] | None,
    *,
    split: str | None,
    device: str = "auto",
    image: str | None = None,
    text: str | None = None,
    rows: IntArray | str | None = None,
) -> Setting:
    """`open_setting` with a head, `open_stored` without one."""
    if head_dir is None:
        return open_stored(store, image=image, text=text, device=device, rows=rows)
    return open_setting(store, head_dir, split=split, device=device, image=image, text=text, rows=rows)


def open_stored(
    store: Store | str | PathLike[str],
    *,
    image: str | None,
    text: str | None,
    device: str = "auto",
    rows: IntArray | str | None = None,
) -> Setting:
    """A setting without a head: the pooled embeddings of two features are compared as they are stored.

    For what `apply` made, and for the towers of one model. `UsageError` where a feature is not named or of
    the wrong table, `HeadError` where the two are not of one joint space.
    """
    opened = store if isinstance(store, Store) else open_store(store)
    if image is None or text is None:
        raise UsageError(
            "nothing to compare",
            todo="give a head with --head DIR, or two features of one joint space with --image and --text",
        )
    images, texts = _of_table(opened, image, "images"), _of_table(opened, text, "texts")
    embedder = StoredEmbeddings.of(images, texts, device=pick_device(device))
    note = "no head was given, so it is not checked whether these images chose or trained it"
    return Setting(
        store=opened,
        embedder=embedder,
        image=images,
        text_feature=texts,
        text_card=texts.card,
        notes=(note,) if embedder.sha256 is not None else _two_models(images.card, texts.card),
        **_narrowed(opened, rows),
    )


def open_towers(
    store: Store | str | PathLike[str],
    *,
    image: str | None,
    text_encoder: str | None,
    device: str = "auto",
    rows: IntArray | str | None = None,
) -> Setting:
    """A setting without a head and without stored texts: pooled embeddings beside a text tower by its spec.

    `UsageError` where one is not named, `HeadError` where the two are not of one width.
    """
    opened = store if isinstance(store, Store) else open_store(store)
    if image is None or text_encoder is None:
        raise UsageError(
            "nothing to compare",
            todo="give a head with --head DIR; or name an image feature with --image and the text tower of "
            "its model: with --text NAME where the store has it, or with --text-encoder SPEC",
        )
    images, place = _of_table(opened, image, "images"), pick_device(device)
    card = load_text_encoder(text_encoder, device=str(place)).card
    if card.pooled_width != images.card.pooled_width:
        raise HeadError(
            "the text tower is not of the image feature's joint space",
            where=f"{image} and {text_encoder}",
            found=f"widths {images.card.pooled_width} and {card.pooled_width}",
            todo="give the text tower of the same model, or a head with --head",
        )
    return Setting(
        store=opened,
        embedder=StoredEmbeddings(sha256=None, device=place),
        image=images,
        text_feature=None,
        text_card=card,
        notes=_two_models(images.card, card),
        **_narrowed(opened, rows),
    )


def _two_models(image: EncoderCard, text: EncoderCard) -> tuple[str, ...]:
    """What to say of two features that no head joins: nothing, where they are the towers of one model."""
    if image.model == text.model:
        return ()
    return (f"cosines mean something only if {image.model} and {text.model} were trained together",)


def _of_table(store: Store, name: str, table: Table) -> Feature:
    """A feature by its name; `UsageError` where it is of the other table."""
    if store[name].table != table:
        raise UsageError(
            f"{name!r} is a feature of {store[name].table}",
            where=f"--{table.removesuffix('s')}",
            allowed=f"one of {table}",
        )
    return store[name]


def _narrowed(store: Store, rows: IntArray | str | None) -> dict[str, Any]:
    """The fields of a setting that say which rows count."""
    if not isinstance(rows, str):
        return {"rows": rows}
    named = choose_rows(store, rows)
    return {"rows": named.images(store), "texts": named.texts(store), "chosen": named.record(store)}


def _check_split(store: Store, head: FittedHead, split: str | None) -> tuple[str, ...]:
    """Refuse the split that chose the head, and say where the head has seen these images."""
    config = head.config
    fitted_on = {*config.stores, config.store_fingerprint}
    if fitted_on.isdisjoint({*store.lineage, store.fingerprint}):
        return _same_name_elsewhere(config, split)

    # A head that was fitted on chosen rows of no one split has seen the splits of these.
    seen = {name for record in config.rows for name in record.splits}

    def overlaps(other: str | None) -> bool:
        if split is None or other is not None:
            return split is None or split == other
        return not config.rows or split in seen

    measured = f"split {split!r}" if split is not None else "all rows"
    if config.chosen and overlaps(config.chosen_on):
        chosen = f"split {config.chosen_on!r}" if config.chosen_on is not None else "every image"
        raise UsageError(
            "the head's checkpoint was chosen on images that would be measured",
            found=f"chosen on {chosen}, to be measured: {measured}",
            allowed=", ".join(
                name for name in store.plan.splits if name not in (config.chosen_on, config.trained_on)
            )
            or None,
            todo="measure another split, or fit without a validation split",
        )
    if overlaps(config.trained_on):
        trained = f"split {config.trained_on!r}" if config.trained_on is not None else "every image"
        return (f"the head was fitted on {trained}, so {measured} holds images that it has seen",)
    return ()


def _same_name_elsewhere(config: HeadConfig, split: str | None) -> tuple[str, ...]:
    """Of another store nothing is known but names: the same one may hold the same images."""
    seen = {"fitted": config.trained_on} | ({"chosen": config.chosen_on} if config.chosen else {})
    return tuple(
        f"the head was {what} on split {split!r} of another store; these figures are too good if that one "
        "holds the same images"
        for what, name in seen.items()
        if name is not None and name == split
    )
