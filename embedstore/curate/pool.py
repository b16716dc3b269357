"""Embeddings of a store's rows as directions: of a head's joint space, or pooled as a feature stores them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from embedstore.encoders.device import pick_device
from embedstore.errors import MismatchError, UsageError
from embedstore.model import FittedHead, feature_of_head, load_head
from embedstore.store import choose_rows
from embedstore.store.selection import equal, readable, split_rows

if TYPE_CHECKING:
    from os import PathLike

    from embedstore.documents import EncoderCard, Table
    from embedstore.shapes import AnyArray, Float32Array, IntArray
    from embedstore.store import Feature, Store
    from embedstore.store.selection import Bools


def unit_vectors(values: AnyArray) -> Float32Array:
    """Rows of `values (n, e)`, any float, as unit vectors float32; NaN where a row has no direction.

    Zero, NaN and infinite rows have none. Each row depends on itself alone.
    """
    # torch converts float16 several times as fast as NumPy.
    found: Float32Array = torch.from_numpy(np.ascontiguousarray(values)).to(torch.float32, copy=True).numpy()
    with np.errstate(all="ignore"):
        squares = np.vecdot(found, found)
        odd = ~((squares > 1e-20) & (squares < 1e20))
        if odd.any():
            wide = np.asarray(values)[odd].astype(np.float64)
            lengths = np.sqrt((wide * wide).sum(axis=1))
            lengths[~np.isfinite(lengths) | (lengths == 0)] = np.nan
            found[odd] = wide / lengths[:, None]
            squares[odd] = 1
        torch.from_numpy(found).div_(torch.from_numpy(np.sqrt(squares))[:, None])
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Where vectors may be compared: one head's joint space, or the pooled embeddings of a card."""

    card: EncoderCard
    head_sha256: str | None
    width: int

    def refuse_other(self, other: Space, *, ours: str, theirs: str) -> str | None:
        """`MismatchError` where vectors of the two cannot be compared; a warning where that is not known."""
        where = f"{ours} and {theirs}"
        if self.head_sha256 != other.head_sha256:
            names = [s.head_sha256[:16] if s.head_sha256 else "no head" for s in (self, other)]
            raise MismatchError(
                "these are embeddings of different spaces",
                where=where,
                found=" and ".join(names),
                todo="make both with one head: --head DIR, or features that one embedstore apply made",
            )
        if self.width != other.width:
            raise MismatchError(
                "these are embeddings of different spaces",
                where=where,
                found=f"widths {self.width} and {other.width}",
                todo="use the same encoder, both towers of one model, or one head",
            )
        if self.head_sha256 is not None:
            return None
        if self.card.modality == other.card.modality:
            fields = self.card.plain.differences(other.card.plain)
            if fields:
                raise MismatchError(
                    "these are embeddings of different encoders",
                    where=where,
                    found="; ".join(f"{name}: {a!r} and {b!r}" for name, (a, b) in fields.items()),
                    todo="use the same encoder, both towers of one model, or one head",
                )
        elif self.card.model != other.card.model:
            return (
                f"{ours} is of {self.card.model}, {theirs} of {other.card.model}: cosines between them mean "
                "something only where both are towers of one model"
            )
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """What embeds rows of one table: a feature, and a head where the feature is not embeddings already."""

    feature: Feature
    head: FittedHead | None
    space: Space

    @property
    def table(self) -> Table:
        """Whose rows are embedded."""
        return self.feature.table

    def vectors(self, rows: IntArray) -> Float32Array:
        """Unit vectors `(b, e)` of rows, NaN where there is no direction."""
        if self.head is not None:
            embed = self.head.embed_images if self.table == "images" else self.head.embed_texts
            return unit_vectors(embed(self.feature, rows))
        if self.feature.header.policy == "float16":
            if len(rows) and rows[-1] - rows[0] + 1 == len(rows) and (np.diff(rows) == 1).all():
                return unit_vectors(self.feature.read("pooled", int(rows[0]), int(rows[-1]) + 1))
            return unit_vectors(self.feature.gather("pooled", rows))
        return unit_vectors(self.feature.decoded("pooled", rows))


def embedded(
    store: Store,
    table: Table,
    *,
    feature: str | None = None,
    head: str | PathLike[str] | None = None,
    device: str = "auto",
    option: str = "--feature",
) -> Embedded:
    """What embeds a table of the store: `head`'s joint space where given, else a feature's pooled vectors.

    With a head the feature that apply made of it is read, or else the cached tokens. Without, `feature`; or
    the only one of the table that has pooled embeddings. `UsageError` where none or several would do.
    """
    if head is not None:
        fitted = load_head(head, device=pick_device(device))
        found = feature_of_head(store, fitted, table, feature, option=option)
        space = Space(card=found.card, head_sha256=fitted.sha256, width=fitted.width)
        return Embedded(feature=found, head=None if found.card.head else fitted, space=space)
    name = feature if feature is not None else _only(store, table, option)
    found = store[name]
    if found.table != table:
        raise UsageError(f"{name!r} is a feature of {found.table}", where=option, allowed=f"one of {table}")
    found.array("pooled")
    sha = None if found.card.head is None else found.card.head.sha256
    space = Space(card=found.card, head_sha256=sha, width=found.card.pooled_width)
    return Embedded(feature=found, head=None, space=space)


def _only(store: Store, table: Table, option: str) -> str:
    fits = [
        name
        for name in store.features()
        if store.header(name).table == table
        and store.complete(name)
        and any(array.name == "pooled" for array in store.header(name).arrays)
    ]
    if len(fits) != 1:
        raise UsageError(
            f"which embeddings of {table} is not clear" if fits else f"no embeddings of {table}",
            where=store.place,
            found=", ".join(fits) or f"features {', '.join(store.features()) or 'none'}",
            todo=f"choose a feature with {option} NAME, or a head with --head DIR",
        )
    return fits[0]


def chosen_rows(
    store: Store, source: Feature, *, rows: str | None, split: str | None, language: str | None = None
) -> tuple[IntArray, int]:
    """Rows of a feature that are meant and can be read, ascending, and how many of those meant cannot.

    `rows` narrows to a subset or file of ids, `split` to a split's images and their texts, `language` texts.
    Texts of role `negative` are never meant. `UsageError` where nothing is left.
    """
    meant = np.ones(source.rows, dtype=bool)
    if source.table == "texts":
        table = store.texts(["role", "language"])
        meant &= ~equal(table["role"], "negative")
        if language is not None:
            meant &= equal(table["language"], language)
    if split is not None:
        meant &= _among(store, source, split_rows(store, split))
    if rows is not None:
        named = choose_rows(store, rows)
        if named.table == source.table:
            own = np.zeros(source.rows, dtype=bool)
            own[named.rows] = True
            meant &= own
        else:
            meant &= _among(store, source, named.images(store))
    good = readable(source)
    found = np.flatnonzero(meant & good)
    if not found.size:
        raise UsageError(
            f"no {source.table} to choose from", where=source.name, found=f"rows {rows}, split {split}"
        )
    return found, int((meant & ~good).sum())


def name_of_rows(rows: str | None) -> str | None:
    """What a card may say of `rows`: a file by its last name."""
    return None if rows is None else Path(rows).name


def _among(store: Store, source: Feature, images: IntArray) -> Bools:
    """Which rows of a feature are of these images."""
    of = np.zeros(store.plan.images + 1, dtype=bool)
    of[images] = True
    if source.table == "images":
        return of[:-1]
    # A text without an image takes the last place, which is of no image.
    found: Bools = of[store.texts(["image"])["image"].fill_null(store.plan.images).to_numpy()]
    return found
