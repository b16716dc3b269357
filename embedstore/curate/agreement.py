"""Cosines of texts with their own images, block by block, through a head or as they are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedstore.documents import SubsetParent
from embedstore.encoders.device import pick_device
from embedstore.errors import UsageError
from embedstore.model import StoredEmbeddings, feature_of_head, load_head, stored_vectors
from embedstore.store.selection import equal, readable
from embedstore.stream.choice import CaptionTable

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

    from embedstore.model import FittedHead
    from embedstore.shapes import Float32Array, FloatArray, IntArray
    from embedstore.store import Feature, Store
    from embedstore.store.selection import Bools

# Blocks begin at multiples of this many image rows, whatever is chosen of them.
BLOCK = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two features of one joint space, made by `head` where they have to be, else stored."""

    image: Feature
    text: Feature
    head: FittedHead | None

    def images(self, rows: IntArray) -> Float32Array:
        """Unit vectors `(n, e)` of image rows; zeros where a stored vector is zero."""
        if self.head is None or self.image.card.head is not None:
            return stored_vectors(self.image, rows)
        return self.head.embed_images(self.image, rows)

    def texts(self, rows: IntArray) -> Float32Array:
        """Unit vectors `(m, e)` of text rows; zeros where a stored vector is zero."""
        if self.head is None or self.text.card.head is not None:
            return stored_vectors(self.text, rows)
        return self.head.embed_texts(self.text, rows)

    @property
    def parents(self) -> tuple[SubsetParent, ...]:
        """The two features and the head."""
        found = [
            SubsetParent(kind="feature", name=feature.name, sha256=feature.manifest.fingerprint)
            for feature in (self.image, self.text)
        ]
        if self.head is not None:
            found.append(SubsetParent(kind="head", sha256=self.head.sha256))
        return tuple(found)


def open_pair(
    store: Store,
    *,
    head: str | PathLike[str] | None,
    image: str | None,
    text: str | None,
    device: str = "auto",
) -> Pair:
    """A head with the features that it reads or has made, or two features that are of one space as stored.

    `UsageError` where neither is named or a feature is of the wrong table, `HeadError` for features of
    another head or encoder, or of two joint spaces.
    """
    if head is not None:
        fitted = load_head(head, device=pick_device(device))
        return Pair(
            image=feature_of_head(store, fitted, "images", image, option="--image"),
            text=feature_of_head(store, fitted, "texts", text, option="--text"),
            head=fitted,
        )
    if image is None or text is None:
        raise UsageError(
            "nothing to compare",
            todo="give a head with --head DIR, or two features of one joint space with --image and --text",
        )
    for name, table, option in ((image, "images", "--image"), (text, "texts", "--text")):
        if store[name].table != table:
            raise UsageError(
                f"{name!r} is a feature of {store[name].table}", where=option, allowed=f"one of {table}"
            )
    StoredEmbeddings.of(store[image], store[text], device=pick_device("cpu"))
    return Pair(image=store[image], text=store[text], head=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """texts, owners, scores `(m,)`: text rows, their images ascending, cosines; left_out: what has none."""

    texts: IntArray
    owners: IntArray
    scores: FloatArray
    left_out: dict[str, int]


def agreement(
    store: Store,
    pair: Pair,
    *,
    images: Bools,
    texts: Bools,
    on_progress: Callable[[int, int], None] | None = None,
) -> Agreement:
    """The cosine of every text of `texts (m,)` with its own image, of the images `images (n,)` alone.

    A text or image that could not be encoded, or whose vector is zero or not finite, has none. Memory: one
    block of embeddings, and some numbers a text.
    """
    good_image, good_text = readable(pair.image), readable(pair.text)
    owner = store.texts(["image"])["image"].fill_null(-1).to_numpy()
    table = CaptionTable.build(images=store.plan.images, image_of=owner, usable=texts & good_text)
    counts = np.diff(table.starts)
    meant = images & good_image & (counts > 0)
    rows = np.flatnonzero(meant)
    found, zero = [], 0
    bounds = np.searchsorted(rows, np.arange(0, store.plan.images + BLOCK, BLOCK))
    for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        if low == high:
            continue
        block = rows[low:high]
        mine = np.repeat(np.arange(len(block)), counts[block])
        said = np.concatenate([table.texts[table.starts[row] : table.starts[row + 1]] for row in block])
        left, right = pair.images(block)[mine], pair.texts(said)
        scores = np.einsum("ij,ij->i", left, right, dtype=np.float64)
        good = np.isfinite(scores) & left.any(axis=1) & right.any(axis=1)
        zero += int((~good).sum())
        found.append((said[good], block[mine[good]], scores[good]))
        if on_progress is not None:
            on_progress(high, len(rows))
    nothing = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    parts = [np.concatenate(part) for part in zip(nothing, *found, strict=True)]
    left_out = {
        "images_unreadable": int((images & ~good_image).sum()),
        "images_without_text": int((images & good_image & (counts == 0)).sum()),
        "texts_unreadable": int((texts & ~good_text & (owner >= 0) & images[owner]).sum()),
        "texts_with_zero_vectors": zero,
    }
    return Agreement(
        texts=parts[0],
        owners=parts[1],
        scores=parts[2],
        left_out={name: count for name, count in left_out.items() if count},
    )


def meant_texts(store: Store, *, role: str, language: str) -> Bools:
    """Which texts `(m,)` have this role and language; 'all': any, of roles any but negative.

    `UsageError` that lists what there is, where no text has both.
    """
    table = store.texts(["role", "language"])
    found = ~equal(table["role"], "negative") if role == "all" else equal(table["role"], role)
    if language != "all":
        found &= equal(table["language"], language)
    if not found.any():
        plan = store.plan
        raise UsageError(
            f"no text has the role {role!r} in the language {language!r}",
            allowed=f"roles {', '.join(plan.roles)}, all; languages {', '.join(plan.languages)}, all",
        )
    return found
