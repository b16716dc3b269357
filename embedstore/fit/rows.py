"""Which pictures and captions a fit learns from: a split, chosen rows of it, or a mix of several choices."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import UsageError
from embedstore.store.choosing import ChosenRows, choose_part, choose_rows
from embedstore.store.ids import ids_at, shown
from embedstore.store.mix import MixedRows
from embedstore.store.selection import split_rows

if TYPE_CHECKING:
    from embedstore.documents import FitConfig, RowsRecord
    from embedstore.shapes import IntArray
    from embedstore.store import Store
    from embedstore.store.selection import Bools


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRows:
    """Image rows, ascending; which texts `(m,)` count, none: all; how epochs mix them; what a head tells."""

    images: IntArray
    texts: Bools | None = None
    mix: MixedRows | None = None
    record: tuple[RowsRecord, ...] = ()


def training_rows(store: Store, config: FitConfig) -> TrainingRows:
    """The rows of a configuration. `UsageError` where one of its names chooses none of its split."""
    of_split = split_rows(store, config.split)
    if config.mix:
        found = _mixed(store, config, of_split)
    elif config.rows is None:
        return TrainingRows(images=of_split)
    else:
        chosen = choose_rows(store, config.rows)
        found = TrainingRows(
            images=_within(store, chosen, of_split, config.split),
            texts=chosen.texts(store),
            record=(chosen.record(store),),
        )
    _refuse_validation(store, found.images, config.val_split)
    return found


def _refuse_validation(store: Store, images: IntArray, val_split: str | None) -> None:
    """Images that choose the checkpoint must not be among those that it is fitted on."""
    if val_split is None:
        return
    both = np.intersect1d(images, split_rows(store, val_split), assume_unique=True)
    if len(both):
        raise UsageError(
            "chosen rows are in the split that would choose the checkpoint",
            where=f"val_split {val_split!r}",
            found=f"{len(both)} images, such as {ids_at(store, 'images', both[:1])[0].as_py()!r}",
            todo="name the split to fit on too, e.g. --split train",
        )


def _within(store: Store, chosen: ChosenRows, of_split: IntArray, split: str | None) -> IntArray:
    found = np.intersect1d(chosen.images(store), of_split, assume_unique=True)
    if not len(found):
        raise UsageError(
            f"no image of {chosen.name!r} is in the split" if split else f"{chosen.name!r} has no image",
            where=store.place,
            found=f"{len(chosen.rows)} {chosen.table}" + (f", split {split!r}" if split else ""),
        )
    return found


def _mixed(store: Store, config: FitConfig, of_split: IntArray) -> TrainingRows:
    # By name, so that the order in which they are given decides nothing.
    shares = dict(sorted(config.mix.items()))
    choices = [choose_part(store, name) for name in shares]
    parts = [_within(store, chosen, of_split, config.split) for chosen in choices]
    _refuse_shared(store, choices, parts)
    mix = MixedRows(tuple(parts), tuple(Fraction(str(share)) for share in shares.values()))
    return TrainingRows(
        images=mix.rows,
        texts=_texts(store, choices),
        mix=mix,
        record=tuple(
            chosen.record(store, share) for chosen, share in zip(choices, shares.values(), strict=True)
        ),
    )


def _refuse_shared(store: Store, choices: list[ChosenRows], parts: list[IntArray]) -> None:
    """A row of two parts would come twice in an epoch, as a negative of itself."""
    for later in range(1, len(parts)):
        for earlier in range(later):
            both = np.intersect1d(parts[earlier], parts[later], assume_unique=True)
            if len(both):
                raise UsageError(
                    f"{len(both)} images are in two parts of the mix",
                    where=f"{choices[earlier].name} and {choices[later].name}",
                    found=shown(ids_at(store, "images", both[:6]).to_pylist()),
                    todo="mix parts that have no image in common",
                )


def _texts(store: Store, choices: list[ChosenRows]) -> Bools | None:
    """Of images that are chosen by their texts only these texts count; of others all."""
    if all(chosen.table == "images" for chosen in choices):
        return None
    counts = np.ones(store.plan.texts, dtype=bool)
    owners = store.texts(["image"])["image"].fill_null(-1).to_numpy()
    for chosen in choices:
        mine = chosen.texts(store)
        if mine is not None:
            counts &= mine | ~np.isin(owners, chosen.images(store))
    return counts
