"""Concept prototypes: a small named file of vectors beside the subsets, with a card that is written last."""

from __future__ import annotations

import difflib
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from embedstore.documents import PrototypesCard, read_bounded
from embedstore.errors import CorruptStoreError, StoreError, UsageError
from embedstore.store import files, layout
from embedstore.store.create import refuse_newer
from embedstore.store.remote.cache_folder import is_mirrored

if TYPE_CHECKING:
    from typing import Any

    from embedstore.shapes import Float32Array
    from embedstore.store.reader import Store

_VECTORS = "vectors"


def encoded(vectors: Float32Array) -> tuple[bytes, str]:
    """The file of vectors `(c, e)`, and its sha256, which the card names."""
    data = save({_VECTORS: np.ascontiguousarray(vectors, dtype=np.float32)})
    return data, hashlib.sha256(data).hexdigest()


def write_prototypes(store: Store, card: PrototypesCard, data: bytes, *, overwrite: bool = False) -> Path:
    """Keep prototypes in a store (of `A+B` in the first), the vectors first; gives their folder.

    `UsageError` for a name that is taken, unless `overwrite`, and for a store at a URL.
    """
    home = store.parts[0].path
    if is_mirrored(home):
        raise UsageError(
            "prototypes are written into a store on this machine",
            where=store.place,
            todo="make them in a local store of labelled images; any store can be collected from",
        )
    folder = layout.prototypes(home, card.name)
    with files.alone(folder):
        if (folder / layout.PROTOTYPES_CARD).exists():
            if not overwrite:
                raise UsageError(
                    f"there are prototypes {card.name!r} already",
                    todo="choose another name, or replace them with --overwrite",
                )
            files.remove(folder / layout.PROTOTYPES_CARD)
            files.flush_folder(folder)
        files.replace(folder / layout.PROTOTYPES_VECTORS, data)
        files.commit(folder / layout.PROTOTYPES_CARD, card.to_json().encode())
    return folder


def read_prototypes(store: Store, named: str) -> tuple[PrototypesCard, Float32Array]:
    """Card and unit vectors `(c, e)` of the prototypes of a store, or of the folder of such in another store.

    `StoreError` where there are none of that name, `CorruptStoreError` where the vectors are not the card's.
    """
    return read_folder(_folder(store, named))


def read_card(folder: Path) -> PrototypesCard:
    """The card alone of the prototypes in a folder; `CorruptStoreError` where it is none."""
    where = f"{layout.PROTOTYPES}/{folder.name}"
    text = read_bounded(folder / layout.PROTOTYPES_CARD, CorruptStoreError)
    refuse_newer(text, where=where)
    return PrototypesCard.from_json(text, where=where, error=CorruptStoreError)


def read_folder(folder: Path) -> tuple[PrototypesCard, Float32Array]:
    """Card and unit vectors `(c, e)` in a folder; `CorruptStoreError` where they do not agree."""
    card, where = read_card(folder), f"{layout.PROTOTYPES}/{folder.name}"
    data = read_bounded(folder / layout.PROTOTYPES_VECTORS, CorruptStoreError)
    if hashlib.sha256(data).hexdigest() != card.vectors_sha256:
        raise CorruptStoreError("the vectors are not those of the card", where=where, todo="make them again")
    try:
        found: dict[str, Any] = load(data)
    except SafetensorError as bad:
        raise CorruptStoreError(f"cannot read the vectors: {bad}", where=where) from None
    vectors = found.get(_VECTORS)
    if vectors is None or vectors.dtype != np.float32 or vectors.shape != (len(card.concepts), card.width):
        raise CorruptStoreError("the vectors do not fit the card", where=where, todo="make them again")
    return card, vectors


def _folder(store: Store, named: str) -> Path:
    for part in store.parts:
        if named in layout.prototype_names(part.path):
            return layout.inside(part.path, layout.prototypes(part.path, named))
    if (Path(named) / layout.PROTOTYPES_CARD).is_file():
        return Path(named)
    names = sorted({name for part in store.parts for name in layout.prototype_names(part.path)})
    near = difflib.get_close_matches(named, names, n=1)
    raise StoreError(
        f"no prototypes {named!r}",
        where=store.place,
        allowed=", ".join(names) or "none yet in this store",
        todo=f"did you mean {near[0]!r}?"
        if near
        else f"embedstore curate prototypes STORE --name {Path(named).name}, or OTHER.store/prototypes/NAME",
    )
