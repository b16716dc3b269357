"""Zero-shot classification: each picture goes to the class whose prompts are nearest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from embedstore.bench.classes import (
    DEFAULT_TEMPLATES,
    ClassName,
    check_templates,
    parse_classes,
    prompts_of,
)
from embedstore.bench.figures import class_chance, class_figures, share_figure
from embedstore.bench.measured import Measured, report_of
from embedstore.bench.outcomes import Outcomes, class_outcomes, image_ids
from embedstore.bench.rows import NO_LABEL, OTHER_LABEL, select_images
from embedstore.bench.setting import Setting, open_setting
from embedstore.documents import BenchReport
from embedstore.encoders import encoder_for_card
from embedstore.errors import UsageError
from embedstore.heads.base import renormalised
from embedstore.index.exact import ranks_of_positives, top_k
from embedstore.metrics.recall import Positives, hits

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from embedstore.shapes import Float32Array, IntArray
    from embedstore.store import Store

PROMPTS_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Classified:
    """Everything of one zero-shot task.

    rows `(n,)` of the images table; labels `(n,)` and predicted `(n,)` count in `classes`; ranks `(n,)` of
    the images' own classes, from 1; skipped: reason to rows left out.
    """

    setting: Setting
    classes: tuple[ClassName, ...]
    templates: tuple[str, ...]
    rows: IntArray
    labels: IntArray
    predicted: IntArray
    ranks: IntArray
    skipped: dict[str, int]
    notes: tuple[str, ...]


def measure_zeroshot(
    store: Store | str | PathLike[str],
    head_dir: str | PathLike[str],
    *,
    split: str | None = "test",
    classes: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
    text_encoder: str | None = None,
    device: str = "auto",
    seed: int = 0,
    rows: IntArray | str | None = None,
) -> Measured:
    """top-1, top-5 and mean-per-class recall of a split (none: every image), and the recall of each class.

    A class embedding is the normalised mean of its normalised prompt embeddings (CLIP_benchmark), the
    prediction the class of highest cosine; equal cosines go to the earlier class. classes: lines as
    `parse_classes` reads them; without it every label of the store, sorted. templates: lines with `{}`;
    without it `DEFAULT_TEMPLATES`. `rows` narrows to image rows, or to those of a subset or file of ids by
    its name. Images without a label, or whose label is no class, are left out and counted; a class without an
    image stays a possible answer but is left out of mean-per-class, and noted.
    Intervals: 95 % bootstrap over images, for mean-per-class within each class. The prompts are encoded by
    the text encoder of the head's card, found by `text_encoder` or remembered. Raises as `open_setting`,
    `UsageError` for bad classes or templates, `EncoderError` where the encoder is not found.
    """
    found = classify(
        open_setting(store, head_dir, split=split, device=device, rows=rows),
        split=split,
        classes=classes,
        templates=templates,
        text_encoder=text_encoder,
    )
    return Measured(
        report=zeroshot_report(found, split=split, seed=seed),
        found=found,
        outcomes=zeroshot_outcomes(found),
    )


bench_zeroshot = report_of(measure_zeroshot)


def classify(
    setting: Setting,
    *,
    split: str | None,
    classes: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
    text_encoder: str | None = None,
    rows: IntArray | None = None,
) -> Classified:
    """Select, embed the pictures and the prompts, and rank the classes; `rows` in place of the setting's."""
    named = parse_classes(classes if classes is not None else store_labels(setting.store))
    forms = check_templates(templates if templates is not None else DEFAULT_TEMPLATES)
    narrowed = setting.rows if rows is None else rows
    chosen, labels, skipped = _labelled(setting, named, split, narrowed)
    vectors, cut = class_embeddings(setting, named, forms, text_encoder)
    images, kind = setting.head.embed_images(setting.image, chosen), str(setting.head.device)
    absent = len(named) - len(np.unique(labels))
    notes = [*setting.notes]
    if absent:
        notes.append(f"{absent} of {len(named)} classes have no image here; mean-per-class leaves them out")
    if cut:
        notes.append(f"{cut} of {len(named) * len(forms)} prompts were cut at the tokenizer's limit")
    return Classified(
        setting=setting,
        classes=named,
        templates=forms,
        rows=chosen,
        labels=labels,
        predicted=top_k(images, vectors, 1, device=kind).rows[:, 0],
        ranks=ranks_of_positives(images, vectors, Positives.single(labels), device=kind),
        skipped=skipped,
        notes=tuple(notes),
    )


def zeroshot_report(found: Classified, *, split: str | None, seed: int) -> BenchReport:
    """The figures of what was classified, with intervals and chance."""
    figures, recalls = class_figures(found.ranks, found.labels, len(found.classes), seed=seed)
    right = hits(found.ranks, 1)
    return BenchReport(
        task="zeroshot",
        metrics={"image_to_class": figures},
        chance={"image_to_class": class_chance(len(found.classes))},
        images=len(found.rows),
        classes=len(found.classes),
        skipped={reason: count for reason, count in found.skipped.items() if count},
        split=split,
        templates=found.templates,
        notes=found.notes,
        seed=seed,
        per_class={
            name.label: share_figure(right[found.labels == c], seed=seed)
            for c, name in enumerate(found.classes)
            if recalls.rows[c]
        },
        **found.setting.report_fields(),
    )


def zeroshot_outcomes(found: Classified) -> dict[str, Outcomes]:
    """What became of each image."""
    ids = image_ids(found.setting.store, found.rows)
    labels = [found.classes[c].label for c in found.labels]
    return {"image_to_class": class_outcomes(ids, found.ranks, labels)}


def store_labels(store: Store) -> list[str]:
    """Every label of the store, all splits, sorted; `UsageError` where there is none."""
    labels = sorted({label for label in store.images(["label"])["label"].to_pylist() if label is not None})
    if not labels:
        raise UsageError("no image of the store has a label", todo="there is nothing to measure zero-shot")
    return labels


@torch.inference_mode()
def class_embeddings(
    setting: Setting, classes: Sequence[ClassName], templates: Sequence[str], text_encoder: str | None
) -> tuple[Float32Array, int]:
    """Unit vectors of the classes `(c, e)` float32, and how many prompts the tokenizer cut."""
    encoder = encoder_for_card(setting.text.card, text_encoder, device=str(setting.head.device))
    ids, cut = encoder.prepare(prompts_of(classes, templates))
    parts = []
    for at in range(0, len(ids), PROMPTS_AT_ONCE):
        batch = encoder.encode(ids[at : at + PROMPTS_AT_ONCE])
        parts.append(setting.head.embed_encoded(batch.tokens, batch.mask, batch.pooled).double().cpu())
    prompts = torch.nn.functional.normalize(torch.cat(parts), dim=-1)
    means = prompts.reshape(len(classes), len(templates), -1).mean(dim=1)
    return renormalised(means, setting.head.module.parts).float().numpy(), sum(cut)


def _labelled(
    setting: Setting, classes: Sequence[ClassName], split: str | None, rows: IntArray | None
) -> tuple[IntArray, IntArray, dict[str, int]]:
    """Image rows with a label among the classes, their classes, and how many were left out and why."""
    chosen, skipped = select_images(setting.store, setting.image, split=split, rows=rows)
    place = {name.label: c for c, name in enumerate(classes)}
    words = setting.store.images(["label"])["label"].take(chosen).to_pylist()
    labels = np.array([-2 if word is None else place.get(word, -1) for word in words], dtype=np.int64)
    skipped |= {NO_LABEL: int((labels == -2).sum()), OTHER_LABEL: int((labels == -1).sum())}
    good = labels >= 0
    if not good.any():
        raise UsageError(
            "no image of the split has a label among the classes",
            found=f"labels {', '.join(sorted({w for w in words if w is not None})[:20]) or 'none'}",
            allowed=", ".join(list(place)[:20]),
        )
    return chosen[good], labels[good], skipped
