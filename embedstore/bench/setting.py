"""What every task begins with: a store, a head that fits it, a device, and a split that may be measured."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from embedstore.encoders.device import device_kind, pick_device
from embedstore.errors import UsageError
from embedstore.model import FittedHead, StoredEmbeddings, feature_of_card, load_head
from embedstore.store import Store, choose_rows, open_store

if TYPE_CHECKING:
    from os import PathLike

    from embedstore.documents import HeadConfig, RowsRecord
    from embedstore.shapes import IntArray
    from embedstore.store import Feature
    from embedstore.store.selection import Bools

LIBRARIES = ("embedstore", "torch", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """An open store, what embeds its rows, the two features that it reads, and what to know about them.

    `rows (n,)`: the image rows that a task is narrowed to, none: all; `texts (m,)`: which texts count, none:
    all; `chosen`: what is told of them in a report, where they have a name.
    """

    store: Store
    embedder: FittedHead | StoredEmbeddings
    image: Feature
    text: Feature
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

    def report_fields(self) -> dict[str, Any]:
        """Fields of a `BenchReport` that say what it depends on."""
        return {
            "store_fingerprint": self.store.fingerprint,
            "head_sha256": self.embedder.sha256,
            "image_card": self.image.card,
            "text_card": self.text.card,
            "versions": {name: version(name) for name in LIBRARIES},
            "device": device_kind(self.embedder.device),
            "rows": self.chosen,
        }


def open_setting(
    store: Store | str | PathLike[str],
    head_dir: str | PathLike[str] | FittedHead,
    *,
    split: str | None,
    device: str = "auto",
    image: str | None = None,
    text: str | None = None,
    rows: IntArray | str | None = None,
) -> Setting:
    """Open everything a task needs. `image` and `text` choose features; none: found by the head's cards.

    `head_dir` may be a head that is loaded, with a device of its own. `rows`: image rows, or the name of a
    subset or of a file of ids.

    `UsageError` where images of this split chose the head's checkpoint: such figures would be too good.
    `HeadError` where the store has no feature of one of the head's cards, or a chosen one is of another.
    """
    opened = store if isinstance(store, Store) else open_store(store)
    head = head_dir if isinstance(head_dir, FittedHead) else load_head(head_dir, device=pick_device(device))
    images, texts = (
        feature_of_card(opened, own, card, shrink=shrink) if chosen is None else opened[chosen]
        for chosen, own, card, shrink in (
            (image, head.config.image_feature, head.config.image_card, head.config.image_shrink),
            (text, head.config.text_feature, head.config.text_card, None),
        )
    )
    head.check_image(images)
    head.check_text(texts)
    return Setting(
        store=opened,
        embedder=head,
        image=images,
        text=texts,
        notes=_check_split(opened, head, split),
        **_narrowed(opened, rows),
    )


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
    for name, table, option in ((image, "images", "--image"), (text, "texts", "--text")):
        if opened[name].table != table:
            raise UsageError(
                f"{name!r} is a feature of {opened[name].table}", where=option, allowed=f"one of {table}"
            )
    images, texts = opened[image], opened[text]
    embedder = StoredEmbeddings.of(images, texts, device=pick_device(device))
    note = "no head was given, so it is not checked whether these images chose or trained it"
    return Setting(
        store=opened,
        embedder=embedder,
        image=images,
        text=texts,
        notes=(note,) if embedder.sha256 is not None else (),
        **_narrowed(opened, rows),
    )


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
