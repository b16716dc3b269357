"""Concept prototypes: what a concept looks like, from a few labelled images or from its name."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedstore.curate.pool import Embedded, Space, chosen_rows, embedded, name_of_rows, unit_vectors
from embedstore.documents import PrototypesCard
from embedstore.encoders import encoder_for_card
from embedstore.encoders.device import pick_device
from embedstore.errors import UsageError
from embedstore.heads.base import renormalised
from embedstore.model import load_head
from embedstore.model.classes import (
    DEFAULT_TEMPLATES,
    ClassName,
    check_templates,
    parse_classes,
    prompts_of,
)
from embedstore.store import Store, open_store
from embedstore.store.prototypes import encoded, read_prototypes, write_prototypes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike
    from pathlib import Path

    from embedstore.documents import Setting
    from embedstore.model import FittedHead
    from embedstore.shapes import Float32Array, FloatArray, IntArray

SHOTS = 128
_PROMPTS_AT_ONCE = 64
NO_DIRECTION = "without a direction (zero, NaN or infinite)"
UNREADABLE = "could not be read"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prototypes:
    """Unit vectors `(c, e)` float32, one for each concept of the card."""

    card: PrototypesCard
    vectors: Float32Array

    @property
    def space(self) -> Space:
        """What they may be compared with."""
        return Space(card=self.card.card, head_sha256=self.card.head_sha256, width=self.card.width)

    def to_dict(self) -> dict[str, Any]:
        """The card as a JSON value."""
        return self.card.model_dump(mode="json")


def load_prototypes(store: Store, named: str) -> Prototypes:
    """The prototypes of that name in a store, or those in a folder `OTHER.store/prototypes/NAME`."""
    card, vectors = read_prototypes(store, named)
    return Prototypes(card=card, vectors=vectors)


def prototypes_of_images(
    store: Store | str | PathLike[str],
    name: str,
    *,
    shots: int = SHOTS,
    classes: Sequence[str] | None = None,
    feature: str | None = None,
    head: str | Path | None = None,
    split: str | None = None,
    rows: str | None = None,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
) -> Prototypes:
    """Keep in the store, for each label, the normalised mean of the unit vectors of at most `shots` images.

    Which images is drawn from `seed` and the label alone. `classes`: lines `label` or `label<TAB>words`,
    whose labels are the concepts; without it every label. Pooled embeddings of `feature`, or `head`'s own.
    Concepts without an image are left out and told of in the card; `UsageError` where all are.
    """
    if shots < 1:
        raise UsageError("at least one image a concept", where="--shots", found=shots)
    opened = store if isinstance(store, Store) else open_store(store)
    source = embedded(opened, "images", feature=feature, head=head, device=device)
    meant, unreadable = chosen_rows(opened, source.feature, rows=rows, split=split)
    labels = np.array(opened.images(["label"])["label"].take(meant).to_pylist(), dtype=object)
    wanted = (
        [c.label for c in parse_classes(classes)]
        if classes is not None
        else sorted({label for label in labels if label is not None})
    )
    if not wanted:
        raise UsageError(
            "no image here has a label",
            where=opened.place,
            todo="make prototypes from class names: --from texts --classes FILE",
        )
    vectors, counts, lost = _means(source, meant, labels, wanted, shots=shots, seed=seed)
    there = [k for k, count in enumerate(counts) if count]
    if not there:
        raise UsageError(
            "no concept has an image", found=f"split {split}, rows {rows}", allowed="labels of images"
        )
    return _kept(
        opened,
        name,
        vectors[there],
        source.space,
        made_of="images",
        concepts=[wanted[k] for k in there],
        counts=[counts[k] for k in there],
        settings={
            "shots": shots,
            "seed": seed,
            "split": split,
            "rows": name_of_rows(rows),
            "feature": source.feature.name,
        },
        left_out={UNREADABLE: unreadable, NO_DIRECTION: lost},
        empty=[word for word, count in zip(wanted, counts, strict=True) if not count],
        overwrite=overwrite,
    )


def prototypes_of_texts(
    store: Store | str | PathLike[str],
    name: str,
    *,
    classes: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
    feature: str | None = None,
    head: str | Path | None = None,
    text_encoder: str | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> Prototypes:
    """Keep in the store, for each class, the normalised mean of the unit vectors of its prompts.

    `classes` as `parse_classes` reads them, without it every label of the store; `templates` with `{}`. The
    prompts are encoded by the text encoder of `head`'s card, or of the text `feature`'s, found by
    `text_encoder` or remembered; its pooled embedding counts, or with a head the joint one.
    """
    opened = store if isinstance(store, Store) else open_store(store)
    named = parse_classes(classes if classes is not None else _labels(opened))
    forms = check_templates(templates if templates is not None else DEFAULT_TEMPLATES)
    fitted = None if head is None else load_head(head, device=pick_device(device))
    if fitted is None:
        source = embedded(opened, "texts", feature=feature)
        card, space = source.feature.card, source.space
    else:
        card = fitted.config.text_card
        space = Space(card=card, head_sha256=fitted.sha256, width=fitted.width)
    vectors, cut = _prompted(card, fitted, named, forms, text_encoder=text_encoder, device=device)
    settings: dict[str, Setting | tuple[Setting, ...]] = {"templates": forms, "cut_prompts": cut}
    if any(c.words != c.label for c in named):
        lines = "\n".join(f"{c.label}\t{c.words}" for c in named)
        settings["words_sha256"] = hashlib.sha256(lines.encode()).hexdigest()
    return _kept(
        opened,
        name,
        vectors,
        space,
        made_of="texts",
        concepts=[c.label for c in named],
        counts=[len(forms)] * len(named),
        settings=settings,
        left_out={},
        empty=[],
        overwrite=overwrite,
    )


def _kept(
    store: Store,
    name: str,
    vectors: Float32Array,
    space: Space,
    *,
    made_of: str,
    concepts: list[str],
    counts: list[int],
    settings: dict[str, Setting | tuple[Setting, ...]],
    left_out: dict[str, int],
    empty: list[str],
    overwrite: bool,
) -> Prototypes:
    dull = [concepts[k] for k in np.flatnonzero(np.isnan(vectors).any(axis=1))]
    if dull:
        raise UsageError(
            "a mean has no direction: its vectors cancel out", found=", ".join(dull[:10]), todo="leave it out"
        )
    data, sha = encoded(vectors)
    card = PrototypesCard.model_validate(
        {
            "name": name,
            "made_of": made_of,
            "concepts": tuple(concepts),
            "counts": tuple(counts),
            "width": vectors.shape[1],
            "card": space.card,
            "head_sha256": space.head_sha256,
            "store_fingerprint": store.fingerprint,
            "settings": settings,
            "left_out": {reason: count for reason, count in left_out.items() if count},
            "empty": tuple(empty),
            "vectors_sha256": sha,
        }
    )
    write_prototypes(store, card, data, overwrite=overwrite)
    return Prototypes(card=card, vectors=vectors)


def _means(
    source: Embedded, rows: IntArray, labels: Any, wanted: list[str], *, shots: int, seed: int
) -> tuple[Float32Array, list[int], int]:
    """Mean directions `(c, e)`, NaN without an image; images of each; images left out for their vectors."""
    order = np.argsort(np.array(["" if label is None else label for label in labels]), kind="stable")
    known = np.array([labels[k] is not None for k in order])
    order = order[known]
    named = np.array([labels[k] for k in order], dtype=str)
    sums = np.full((len(wanted), source.space.width), np.nan)
    counts, lost = [], 0
    for concept, label in enumerate(wanted):
        own = np.sort(
            rows[order[np.searchsorted(named, label) : np.searchsorted(named, label, side="right")]]
        )
        drawn = np.random.default_rng([seed, *hashlib.sha256(label.encode()).digest()]).permutation(own)
        found: list[FloatArray] = []
        have = 0
        while have < shots and len(drawn):
            take, drawn = np.sort(drawn[: shots - have]), drawn[shots - have :]
            vectors = source.vectors(take)
            good = ~np.isnan(vectors[:, 0])
            lost += int((~good).sum())
            have += int(good.sum())
            found.append(vectors[good].astype(np.float64))
        counts.append(have)
        if have:
            sums[concept] = np.concatenate(found).mean(axis=0)
    return _directions(sums, source.head), counts, lost


def _directions(means: FloatArray, head: FittedHead | None) -> Float32Array:
    """Means as unit vectors again, of a joint embedding with parts each part by itself."""
    if head is None or not head.module.parts:
        return unit_vectors(means)
    return unit_vectors(renormalised(torch.from_numpy(means), head.module.parts).numpy())


@torch.inference_mode()
def _prompted(
    card: Any,
    head: FittedHead | None,
    classes: Sequence[ClassName],
    templates: Sequence[str],
    *,
    text_encoder: str | None,
    device: str,
) -> tuple[Float32Array, int]:
    """Unit vectors of classes `(c, e)`, and how many prompts the tokenizer cut."""
    encoder = encoder_for_card(card, text_encoder, device=str(pick_device(device)))
    ids, cut = encoder.prepare(prompts_of(classes, templates))
    found = []
    for at in range(0, len(ids), _PROMPTS_AT_ONCE):
        batch = encoder.encode(ids[at : at + _PROMPTS_AT_ONCE])
        vectors = batch.pooled if head is None else head.embed_encoded(batch.tokens, batch.mask, batch.pooled)
        found.append(unit_vectors(vectors.float().cpu().numpy()))
    prompts = np.concatenate(found).astype(np.float64).reshape(len(classes), len(templates), -1)
    return _directions(prompts.mean(axis=1), head), int(sum(cut))


def _labels(store: Store) -> list[str]:
    labels = sorted({label for label in store.images(["label"])["label"].to_pylist() if label is not None})
    if not labels:
        raise UsageError("no image of the store has a label", todo="name the classes with --classes FILE")
    return labels
