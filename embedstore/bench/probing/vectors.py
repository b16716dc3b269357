"""The image vectors that a probe reads: of the frozen encoder itself, or through a head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np

from embedstore.bench.setting import open_setting
from embedstore.encoders.device import pick_device
from embedstore.errors import UsageError
from embedstore.heads.image_inputs import patch_mean
from embedstore.model import feature_of_card, load_head, stored_vectors
from embedstore.store import Store, choose_rows, open_store
from embedstore.stream.embed import embed_images, refuse_quarantined

if TYPE_CHECKING:
    from os import PathLike

    import torch

    from embedstore.documents import RowsRecord
    from embedstore.model import FittedHead
    from embedstore.shapes import Float32Array, IntArray
    from embedstore.store import Feature

Vector: TypeAlias = Literal["pooled", "cls", "mean", "cls+mean"]
On: TypeAlias = Literal["encoder", "head"]

_ROWS_AT_ONCE = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Where a probe looks: an image feature of a store, and what is read of it.

    vector: of the encoder; none: the joint embeddings of `head`. notes: what to know; rows: the image rows
    that are measured, none: all; chosen: what a report tells of them.
    """

    store: Store
    feature: Feature
    vector: Vector | None
    head: FittedHead | None
    device: torch.device
    rows: IntArray | None
    chosen: RowsRecord | None
    notes: tuple[str, ...] = ()

    def vectors(self, rows: IntArray) -> Float32Array:
        """Unit vectors `(n, w)` of image rows in the order given; quarantined rows are refused.

        `UsageError` where the feature has no such vector. A vector of zeros stays so.
        """
        if self.vector is None:
            if self.head is None:
                raise UsageError("a probe on joint embeddings needs a head")
            if self.feature.card.head is not None:
                return stored_vectors(self.feature, rows)
            return self.head.embed_images(self.feature, rows)
        refuse_quarantined(self.feature, rows)
        parts = [_READ[part](self, rows) for part in self.vector.split("+")]
        return _unit(np.concatenate([_unit(part) for part in parts], axis=1))


def open_space(
    store: Store | str | PathLike[str],
    head_dir: str | PathLike[str] | None,
    *,
    on: str | None,
    vector: str | None,
    split: str | None,
    image: str | None,
    device: str,
    rows: IntArray | str | None,
) -> Space:
    """What a probe reads. on: 'encoder' or 'head'; none: the head where there is one.

    `UsageError` for a choice that is none, a vector that the feature has not, and where it is not said which
    of several image features is meant, `HeadError` for a feature of another encoder than the head's. Of the
    head raises as `open_setting`.
    """
    on = on or ("encoder" if head_dir is None else "head")
    if on not in get_args(On):
        raise UsageError("unknown place of a probe", where="on", found=on, allowed="encoder, head")
    if on == "head":
        return _joint(store, head_dir, vector=vector, split=split, image=image, device=device, rows=rows)
    opened = store if isinstance(store, Store) else open_store(store)
    feature = _feature(opened, None if head_dir is None else load_head(head_dir), image)
    chosen = choose_rows(opened, rows) if isinstance(rows, str) else None
    return Space(
        store=opened,
        feature=feature,
        vector=_known(vector or "pooled", feature),
        head=None,
        device=pick_device(device),
        rows=rows if chosen is None else chosen.images(opened),  # type: ignore[arg-type]  # no name is left
        chosen=None if chosen is None else chosen.record(opened),
    )


def _joint(
    store: Store | str | PathLike[str],
    head_dir: str | PathLike[str] | None,
    *,
    vector: str | None,
    split: str | None,
    image: str | None,
    device: str,
    rows: IntArray | str | None,
) -> Space:
    """The joint embeddings of a head, on a split that it may be measured on."""
    if head_dir is None:
        raise UsageError("a probe on the head needs one", todo="give it with --head DIR")
    if vector is not None:
        raise UsageError(
            "a head gives one embedding of each image", where="vector", found=vector, todo="leave it out"
        )
    setting = open_setting(store, head_dir, split=split, image=image, device=device, rows=rows, texts=False)
    return Space(
        store=setting.store,
        feature=setting.image,
        vector=None,
        head=setting.head,
        device=setting.head.device,
        rows=setting.rows,
        chosen=setting.chosen,
        notes=setting.notes,
    )


def _feature(store: Store, head: FittedHead | None, image: str | None) -> Feature:
    if head is not None:
        config = head.config
        found = (
            feature_of_card(store, config.image_feature, config.image_card, shrink=config.image_shrink)
            if image is None
            else store[image]
        )
        head.check_image(found)
        return found
    headers = {name: store.header(name) for name in store.features()}
    names = [name for name, header in headers.items() if header.table == "images"]
    plain = [n for n in names if headers[n].card.head is None and headers[n].card.view is None]
    if image is None and len(plain) != 1:
        raise UsageError(
            "it is not said which image feature is meant",
            where="--image",
            found=f"{len(plain)} of encoders",
            allowed=", ".join(names) or "none",
        )
    found = store[image or plain[0]]
    if found.table != "images":
        raise UsageError(f"{found.name!r} is a feature of texts", where="--image", allowed=", ".join(names))
    return found


def _known(vector: str, feature: Feature) -> Vector:
    """The vector by its name, if the feature has it."""
    has = {
        "pooled": "pooled" in feature.arrays,
        "cls": "prefix" in feature.arrays and feature.card.has_cls,
        "mean": "tokens" in feature.arrays,
    }
    has["cls+mean"] = has["cls"] and has["mean"]
    if not has.get(vector):
        raise UsageError(
            "the feature has no such vector",
            where=feature.name,
            found=vector,
            allowed=", ".join(name for name, there in has.items() if there),
        )
    return vector  # type: ignore[return-value]  # one of the names


def _pooled(space: Space, rows: IntArray) -> Float32Array:
    return space.feature.decoded("pooled", rows)


def _cls(space: Space, rows: IntArray) -> Float32Array:
    found = np.empty((len(rows), space.feature.card.width), np.float32)
    for at in range(0, len(rows), _ROWS_AT_ONCE):
        part = rows[at : at + _ROWS_AT_ONCE]
        found[at : at + len(part)] = space.feature.decoded("prefix", part)[:, 0]
    return found


def _mean(space: Space, rows: IntArray) -> Float32Array:
    return embed_images(
        space.feature, rows, lambda part: patch_mean(part.tokens.float(), part.weights), device=space.device
    )


_READ = {"pooled": _pooled, "cls": _cls, "mean": _mean}


def _unit(vectors: Float32Array) -> Float32Array:
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    unit: Float32Array = vectors / np.where(lengths > 0, lengths, 1.0).astype(np.float32)[:, None]
    return unit
