"""Which rows and which vectors encoders are compared by: one vector a picture, one for its captions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from embedstore.errors import UsageError
from embedstore.store.selection import readable, split_rows, texts_with

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedstore.documents import Table, VectorKind
    from embedstore.shapes import FloatArray, IntArray
    from embedstore.store import ChosenRows, Feature, Store

Captions: TypeAlias = Literal["mean", "first"]
NO_CAPTION = "a picture without a caption that counts"
_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Captioned:
    """Pictures that every image feature holds, with captions that every text feature holds.

    images `(n,)` int64, rising; texts `(m,)` int64, those of one picture together, pictures in their order;
    offsets `(n + 1,)`: picture i owns `texts[offsets[i]:offsets[i + 1]]`, one at least; skipped: reason to
    rows left out.
    """

    images: IntArray
    texts: IntArray
    offsets: IntArray
    skipped: dict[str, int]

    def __len__(self) -> int:
        return len(self.images)

    def at(self, places: IntArray) -> Captioned:
        """The pictures at these places `(m,)`, rising, with their captions."""
        each = np.diff(self.offsets)
        kept = np.zeros(len(self), bool)
        kept[places] = True
        return Captioned(
            images=self.images[places],
            texts=self.texts[np.repeat(kept, each)],
            offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(each[places])]),
            skipped=self.skipped,
        )


def choose_features(store: Store, named: Sequence[str] | None, table: Table) -> list[Feature]:
    """The features of a table that are compared: those `named`, or every complete one of an encoder.

    Without names, augmented views and a head's joint embeddings are left out: these have met already.
    `UsageError` for a name of the other table, one named twice, or none at all.
    """
    kind = table.removesuffix("s")
    if named is not None:
        found = [store[name] for name in named]
        for name, feature in zip(named, found, strict=True):
            if feature.table != table:
                raise UsageError(f"feature {name!r} is one of {feature.table}", where=f"--{kind}")
        if len(set(named)) < len(named):
            raise UsageError("a feature is named twice", where=f"--{kind}", found=", ".join(named))
    else:
        headers = [store.header(name) for name in store.features() if store.complete(name)]
        found = [
            store[h.name] for h in headers if h.table == table and h.card.view is None and h.card.head is None
        ]
    if not found:
        raise UsageError(
            f"the store has no feature of {table} to compare",
            where=store.place,
            found=f"features {', '.join(store.features()) or 'none'}",
            todo=f"add one: embedstore encode SOURCE STORE --{kind}-encoder NAME=SPEC",
        )
    return found


def captioned(
    store: Store,
    images: Sequence[Feature],
    texts: Sequence[Feature],
    *,
    split: str | None,
    language: str,
    role: str,
    captions: Captions,
    chosen: ChosenRows | None,
) -> Captioned:
    """Rows that all features can give, so that all pairs are compared by the same rows.

    `UsageError` for a split, role or language that the store has not, and where no row is left.
    """
    counts = texts_with(store, role=role, language=language)
    rows = split_rows(store, split)
    if chosen is not None:
        rows = np.intersect1d(rows, chosen.images(store), assume_unique=True)
        of_them = chosen.texts(store)
        counts &= True if of_them is None else of_them
    skipped = {}
    for feature in images:
        good = readable(feature)[rows]
        skipped[f"no picture in {feature.name}"] = int((~good).sum())
        rows = rows[good]
    owners = store.texts(["image"])["image"].fill_null(store.plan.images).to_numpy().astype(np.int64)
    place = np.full(store.plan.images + 1, -1)
    place[rows] = np.arange(len(rows))
    # A text without a picture takes the last place of the map, which never holds one.
    counts &= place[owners] >= 0
    for feature in texts:
        good = readable(feature)
        skipped[f"no text in {feature.name}"] = int((counts & ~good).sum())
        counts &= good
    taken = np.flatnonzero(counts)
    taken = taken[np.argsort(place[owners[taken]], kind="stable")]
    each = np.bincount(place[owners[taken]], minlength=len(rows))
    skipped[NO_CAPTION] = int((each == 0).sum())
    starts = (np.cumsum(each) - each)[each > 0]
    if captions == "first":
        taken, each = taken[starts], np.minimum(each, 1)
    rows, each = rows[each > 0], each[each > 0]
    skipped = {reason: count for reason, count in skipped.items() if count}
    if not len(rows):
        raise UsageError(
            "no picture with a caption is left to compare encoders by",
            found=f"split {split or 'all'}, role {role}, language {language}; left out: {skipped or 'none'}",
        )
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(each)])
    return Captioned(images=rows, texts=taken, offsets=offsets, skipped=skipped)


def vector_kind(feature: Feature, wanted: VectorKind | None) -> VectorKind:
    """What is read of a feature, by default of pictures the tokens, of texts the pooled embedding.

    Where the default is not stored it is the other one; `UsageError` where `wanted` is not stored.
    """
    has: dict[VectorKind, bool] = {
        "tokens": "tokens" in feature.arrays,
        "cls": "prefix" in feature.arrays and feature.card.has_cls,
        "pooled": "pooled" in feature.arrays,
    }
    order: tuple[VectorKind, ...] = (
        ("tokens", "pooled") if feature.table == "images" else ("pooled", "tokens")
    )
    stored = [kind for kind, there in has.items() if there]
    if wanted is not None and wanted not in stored:
        raise UsageError(f"feature {feature.name!r} has no {wanted!r}", allowed=", ".join(stored))
    return next(kind for kind in order if has[kind]) if wanted is None else wanted


def image_vectors(feature: Feature, rows: IntArray, kind: VectorKind) -> FloatArray:
    """One vector a picture `(b, d)` float64: the mean over CLS and all patches, CLS alone, or the pooled one.

    The mean is the one of the encoder's own output: stored tokens that stand for several patches weigh as
    many, and registers, which describe no part of the picture, are left out.
    """
    if kind == "pooled":
        return feature.decoded("pooled", rows).astype(np.float64)
    if kind == "cls":
        return feature.decoded("prefix", rows)[:, 0].astype(np.float64)
    found = np.empty((len(rows), feature.card.width))
    places = feature.array("tokens").spec.shape[1]
    step = max(1, _BYTES // (4 * places * feature.card.width))
    for at in range(0, len(rows), step):
        part = rows[at : at + step]
        found[at : at + step] = _token_mean(feature, part)
    return found


def text_vectors(feature: Feature, texts: IntArray, offsets: IntArray, kind: VectorKind) -> FloatArray:
    """One vector a picture `(b, d)` float64: the mean over its captions, `texts[offsets[i]:offsets[i+1]]`."""
    width = feature.card.pooled_width if kind == "pooled" else feature.card.width
    each = np.empty((len(texts), width))
    step = max(1, _BYTES // (4 * feature.card.width * max(1, feature.header.max_tokens or 1)))
    for at in range(0, len(texts), step):
        part = texts[at : at + step]
        if kind == "pooled":
            each[at : at + step] = feature.decoded("pooled", part)
            continue
        packed = feature.decoded_text(part)
        sums = np.add.reduceat(packed.tokens, packed.offsets[:-1], axis=0, dtype=np.float64)
        each[at : at + step] = sums / packed.lengths[:, None]
    means: FloatArray = np.add.reduceat(each, offsets[:-1], axis=0) / np.diff(offsets)[:, None]
    return means


def _token_mean(feature: Feature, rows: IntArray) -> FloatArray:
    tokens = feature.decoded("tokens", rows)
    if "weights" in feature.arrays:
        patches: FloatArray = np.einsum(
            "ntd,nt->nd", tokens, feature.gather("weights", rows), dtype=np.float64
        )
    else:
        patches = tokens.mean(axis=1, dtype=np.float64)
    if "prefix" not in feature.arrays or not feature.card.has_cls:
        return patches
    grid = feature.card.grid
    count = grid[0] * grid[1] if grid else tokens.shape[1]
    cls = feature.decoded("prefix", rows)[:, 0].astype(np.float64)
    return (count * patches + cls) / (count + 1)


def places_of_sample(n: int, size: int, seed: int) -> IntArray:
    """At most `size` of n rows, rising, drawn without replacement."""
    if size >= n:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, size, replace=False))
