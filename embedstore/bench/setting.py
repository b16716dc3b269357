"""What every task begins with: a store, a head that fits it, a device, and a split that may be measured."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedstore.encoders.device import device_kind, pick_device
from embedstore.errors import HeadError, UsageError
from embedstore.model import load_head
from embedstore.store import Store, open_store

if TYPE_CHECKING:
    from os import PathLike

    from embedstore.documents import EncoderCard, HeadConfig
    from embedstore.model import FittedHead
    from embedstore.store import Feature

LIBRARIES = ("embedstore", "torch", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """An open store, a loaded head, the two features it reads, and what to know about them."""

    store: Store
    head: FittedHead
    image: Feature
    text: Feature
    notes: tuple[str, ...]

    def report_fields(self) -> dict[str, Any]:
        """Fields of a `BenchReport` that say what it depends on."""
        return {
            "store_fingerprint": self.store.fingerprint,
            "head_sha256": self.head.sha256,
            "image_card": self.image.card,
            "text_card": self.text.card,
            "versions": {name: version(name) for name in LIBRARIES},
            "device": device_kind(self.head.device),
        }


def open_setting(
    store: Store | str | PathLike[str],
    head_dir: str | PathLike[str],
    *,
    split: str | None,
    device: str = "auto",
) -> Setting:
    """Open everything a task needs.

    `UsageError` where images of this split chose the head's checkpoint: such figures would be too good.
    `HeadError` where the store has no feature of one of the head's cards.
    """
    opened = store if isinstance(store, Store) else open_store(store)
    head = load_head(Path(head_dir), device=pick_device(device))
    image, text = (
        _feature(opened, name, card)
        for name, card in (
            (head.config.image_feature, head.config.image_card),
            (head.config.text_feature, head.config.text_card),
        )
    )
    return Setting(
        store=opened,
        head=head,
        image=image,
        text=text,
        notes=_check_split(opened, head, split),
    )


def _feature(store: Store, name: str, card: EncoderCard) -> Feature:
    """The store's feature with this card: the one of the head's own name first, else any other name.

    An augmented view is measured only where the pictures themselves are not encoded.
    """
    names = sorted(
        store.features(),
        key=lambda found: (store.header(found).card.view is not None, found != name, found),
    )
    for found in names:
        if not card.plain.differences(store.header(found).card.plain):
            return store[found]
    differing = ""
    if name in names:
        fields = card.plain.differences(store.header(name).card.plain)
        differing = "; ".join(f"{name}.{field}: head {a!r}, store {b!r}" for field, (a, b) in fields.items())
    raise HeadError(
        f"the store has no feature of the {card.modality} encoder that the head was fitted for",
        where=store.path.name,
        found=differing or f"features {', '.join(names) or 'none'}",
        allowed=f"a feature made by {card.model} ({card.architecture})",
        todo=f"add it: embedstore encode SOURCE STORE --{card.modality}-encoder {name}=SPEC",
    )


def _check_split(store: Store, head: FittedHead, split: str | None) -> tuple[str, ...]:
    """Refuse the split that chose the head, and say where the head has seen these images."""
    config = head.config
    fitted_on = {*config.stores, config.store_fingerprint}
    if fitted_on.isdisjoint({*store.lineage, store.fingerprint}):
        return _same_name_elsewhere(config, split)

    def overlaps(other: str | None) -> bool:
        return split is None or other is None or split == other

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
