"""Which rows a task measures, and which it leaves out and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import UsageError
from embedstore.store.selection import readable, split_rows, texts_with

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedstore.model.classes import ClassName
    from embedstore.shapes import IntArray
    from embedstore.store import Feature, Store
    from embedstore.store.selection import Bools

NO_PICTURE = "the picture could not be read"
NO_TEXT = "the text could not be read"
NO_CAPTION = "an image without a caption of this role and language"
NO_LABEL = "an image without a label"
OTHER_LABEL = "an image whose label is not among the classes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Images and their texts. Rows are rows of the store's tables.

    images `(n,)` int64, rising; texts `(m,)` int64, the texts of one image together and in the order of
    `images`; counts `(n,)` texts of each image, at least 1; skipped: reason to rows left out.
    """

    images: IntArray
    texts: IntArray
    counts: IntArray
    skipped: dict[str, int] = field(default_factory=dict)

    @property
    def offsets(self) -> IntArray:
        """Image i owns `texts[offsets[i]:offsets[i+1]]`; `(n+1,)` int64."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.counts)])

    @property
    def image_of(self) -> IntArray:
        """Place in `images` of each text's own image `(m,)` int64."""
        return np.repeat(np.arange(len(self.images)), self.counts)


def select_images(
    store: Store, image: Feature, *, split: str | None, rows: IntArray | None = None
) -> tuple[IntArray, dict[str, int]]:
    """Image rows of a split (none: all) that could be read, rising, and how many could not.

    `rows` narrows to a subset of image rows. `UsageError` for a split or rows that the store has not.
    """
    chosen = np.arange(store.plan.images) if rows is None else np.unique(rows)
    if chosen.size and not 0 <= chosen[0] <= chosen[-1] < store.plan.images:
        raise UsageError(
            "rows outside the store",
            found=f"{chosen[0]} to {chosen[-1]}",
            allowed=f"0 to {store.plan.images - 1}",
        )
    if split is not None:
        chosen = np.intersect1d(chosen, split_rows(store, split), assume_unique=True)
    good = readable(image)[chosen]
    return chosen[good], {NO_PICTURE: int((~good).sum())}


def select_pairs(
    store: Store,
    image: Feature,
    text: Feature,
    *,
    split: str | None,
    language: str,
    role: str,
    rows: IntArray | None = None,
    texts: Bools | None = None,
    also: Sequence[Feature] = (),
) -> Pairs:
    """Images of a split with all their texts of one role and language; `texts (m,)`: which of these count.

    also: further text features, in each of which a text must be readable.
    Left out and counted: pictures and texts that could not be read, and images without such a text.
    `UsageError` where nothing remains or no text of the store has that language and role.
    """
    wanted = texts_with(store, role=role, language=language)
    if texts is not None:
        wanted &= texts
    images, skipped = select_images(store, image, split=split, rows=rows)
    image_of = store.texts(["image"])["image"].fill_null(store.plan.images).to_numpy()
    place = np.full(store.plan.images + 1, -1)
    place[images] = np.arange(len(images))
    # A text without an image takes the last place of the map, which never holds one.
    owner = place[image_of]
    chosen = np.flatnonzero((owner >= 0) & wanted)
    good = np.logical_and.reduce([readable(feature)[chosen] for feature in (text, *also)])
    skipped[NO_TEXT] = int((~good).sum())
    chosen = chosen[good]
    chosen = chosen[np.argsort(owner[chosen], kind="stable")]
    counts = np.bincount(owner[chosen], minlength=len(images))
    skipped[NO_CAPTION] = int((counts == 0).sum())
    if not chosen.size:
        raise UsageError(
            "nothing to measure: no image with a readable text",
            found=f"split {split}, role {role}, language {language}; left out: {skipped}",
        )
    return Pairs(images=images[counts > 0], texts=chosen, counts=counts[counts > 0], skipped=skipped)


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """Image rows `(n,)`, the places of their labels among the classes `(n,)`, and how many were left out."""

    rows: IntArray
    labels: IntArray
    skipped: dict[str, int]


def select_labelled(
    store: Store,
    image: Feature,
    classes: Sequence[ClassName],
    *,
    split: str | None,
    rows: IntArray | None = None,
) -> Labelled:
    """The readable images of a split whose label is among the classes; `UsageError` where there is none."""
    chosen, skipped = select_images(store, image, split=split, rows=rows)
    place = {name.label: c for c, name in enumerate(classes)}
    words = store.images(["label"])["label"].take(chosen).to_pylist()
    labels = np.array([-2 if word is None else place.get(word, -1) for word in words], dtype=np.int64)
    skipped |= {NO_LABEL: int((labels == -2).sum()), OTHER_LABEL: int((labels == -1).sum())}
    good = labels >= 0
    if not good.any():
        raise UsageError(
            "no image of the split has a label among the classes",
            found=f"labels {', '.join(sorted({w for w in words if w is not None})[:20]) or 'none'}",
            allowed=", ".join(list(place)[:20]),
        )
    return Labelled(rows=chosen[good], labels=labels[good], skipped=skipped)
