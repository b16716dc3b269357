"""Zero-shot classification: each picture goes to the class whose prompts are nearest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedstore.bench.classes import ClassName, ClassPrompts, class_prompts
from embedstore.bench.figures import class_chance, class_figures, share_figure
from embedstore.bench.languages.averages import Tally
from embedstore.bench.measured import Measured, report_of, silent
from embedstore.bench.outcomes import Outcomes, class_outcomes, image_ids
from embedstore.bench.prompts import class_vectors, speaker_of
from embedstore.bench.rows import Labelled, select_labelled
from embedstore.bench.setting import Setting, open_setting, open_stored, open_towers
from embedstore.bench.versions import of_encoder
from embedstore.documents import BenchReport, Confusion
from embedstore.index.exact import pair_scores, ranks_of_positives, top_k
from embedstore.metrics.accuracy import confused_pairs, confusion
from embedstore.metrics.recall import Positives, hits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from os import PathLike

    from embedstore.model.descriptions import Descriptions
    from embedstore.shapes import Float32Array, FloatArray, IntArray
    from embedstore.store import Store

    Progress = Callable[[str, int, int], None]

CONFUSED_PAIRS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Classified:
    """Everything of one zero-shot task.

    rows `(n,)` of the images table; labels `(n,)` and predicted `(n,)` count in `classes`; ranks `(n,)` of
    the images' own classes, from 1; scores `(n,)` of the predicted and own_scores `(n,)` of the own class,
    inner products; vectors `(c, e)` of the classes; prompts: those of each class; skipped: reason to rows
    left out; options: what a report tells of the prompts.
    """

    setting: Setting
    classes: tuple[ClassName, ...]
    templates: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]
    vectors: Float32Array
    rows: IntArray
    labels: IntArray
    predicted: IntArray
    ranks: IntArray
    scores: FloatArray
    own_scores: FloatArray
    skipped: dict[str, int]
    notes: tuple[str, ...]
    options: dict[str, str | int | float | bool]

    @property
    def tally(self) -> Tally:
        """Each image, and the rank of its class."""
        return Tally(units=self.rows, ranks=self.ranks)

    @property
    def confusion(self) -> IntArray:
        """How often an image of class i (first axis) was called j (second axis); `(c, c)` int64."""
        return confusion(self.predicted, self.labels, len(self.classes))


def measure_zeroshot(
    store: Store | str | PathLike[str],
    head_dir: str | PathLike[str] | None = None,
    *,
    image: str | None = None,
    text: str | None = None,
    split: str | None = "test",
    classes: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
    descriptions: Descriptions | None = None,
    convention: str = "clip-benchmark",
    text_encoder: str | None = None,
    device: str = "auto",
    seed: int = 0,
    rows: IntArray | str | None = None,
    on_progress: Progress | None = None,
) -> Measured:
    """top-1, top-5 and mean-per-class recall of a split (none: every image), and the recall of each class.

    With a head, `image` names the feature that it reads, or the joint embeddings that it made. Without, the
    stored pooled embeddings of `image` are compared with prompts through the text tower of the same model:
    the encoder of the feature `text`, or `text_encoder`.

    A class embedding is the normalised mean of its normalised prompt embeddings (CLIP_benchmark), or by
    `convention="freeze-align"` what `class_vectors` says; the prediction is the class of the highest inner
    product, of equal ones the earlier class. `classes`, `templates` and `descriptions`: see `class_prompts`.
    `rows` narrows to image rows, or to those of a subset or file of ids by its name. Images without a label,
    or whose label is no class, are left out and counted; a class without an image stays a possible answer
    but is left out of mean-per-class, and noted.
    Intervals: 95 % bootstrap over images, for mean-per-class within each class. The prompts are encoded by
    the text encoder of the head's card, found by `text_encoder` or remembered. `on_progress(what, done,
    total)`. Raises as `open_setting`, `UsageError` for bad classes or templates, `EncoderError` where the
    encoder is not found.
    """
    setting = open_for_prompts(
        store,
        head_dir,
        image=image,
        text=text,
        text_encoder=text_encoder,
        split=split,
        device=device,
        rows=rows,
    )
    found = classify(
        setting,
        split=split,
        classes=classes,
        templates=templates,
        descriptions=descriptions,
        convention=convention,
        text_encoder=text_encoder,
        on_progress=on_progress,
    )
    return Measured(
        report=zeroshot_report(found, split=split, seed=seed),
        found=found,
        outcomes=zeroshot_outcomes(found),
    )


bench_zeroshot = report_of(measure_zeroshot)


def open_for_prompts(
    store: Store | str | PathLike[str],
    head_dir: str | PathLike[str] | None,
    *,
    image: str | None,
    text: str | None,
    text_encoder: str | None,
    split: str | None,
    device: str,
    rows: IntArray | str | None,
) -> Setting:
    """A setting in which images are compared with prompts: of a head, of two stored features, of two towers.

    Of a head the store needs no texts. Raises as the functions that open each.
    """
    if head_dir is not None:
        return open_setting(
            store, head_dir, split=split, device=device, image=image, text=text, rows=rows, texts=False
        )
    if text is not None:
        return open_stored(store, image=image, text=text, device=device, rows=rows)
    return open_towers(store, image=image, text_encoder=text_encoder, device=device, rows=rows)


def classify(
    setting: Setting,
    *,
    split: str | None,
    classes: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
    descriptions: Descriptions | None = None,
    convention: str = "clip-benchmark",
    text_encoder: str | None = None,
    rows: IntArray | None = None,
    on_progress: Progress | None = None,
) -> Classified:
    """Select, embed the pictures and the prompts, and rank the classes; `rows` in place of the setting's."""
    asked = class_prompts(setting.store, classes=classes, templates=templates, descriptions=descriptions)
    labelled = select_labelled(
        setting.store,
        setting.image,
        asked.classes,
        split=split,
        rows=setting.rows if rows is None else rows,
    )
    told = on_progress or silent
    vectors, cut = class_vectors(
        speaker_of(setting, text_encoder),
        asked.prompts,
        convention=convention,
        on_progress=lambda done, total: told("prompts", done, total),
    )
    images = setting.embed_images(labelled.rows, on_progress=lambda done, total: told("images", done, total))
    return ranked(setting, asked, labelled, images, vectors, cut=cut, convention=convention)


def ranked(
    setting: Setting,
    asked: ClassPrompts,
    labelled: Labelled,
    images: Float32Array,
    vectors: Float32Array,
    *,
    cut: int,
    convention: str,
) -> Classified:
    """The classes of images `(n, e)` by their inner products with `vectors (c, e)`."""
    kind, labels = str(setting.embedder.device), labelled.labels
    ranks = ranks_of_positives(images, vectors, Positives.single(labels), device=kind)
    # The first class is known where it is the own one; the two orders are the same, ties included.
    predicted, wrong = labels.copy(), ranks > 1
    if wrong.any():
        predicted[wrong] = top_k(images[wrong], vectors, 1, device=kind).rows[:, 0]
    every = np.arange(len(images))
    absent = len(asked.classes) - len(np.unique(labels))
    notes = [*setting.notes, *asked.notes]
    if absent:
        notes.append(
            f"{absent} of {len(asked.classes)} classes have no image here; mean-per-class leaves them out"
        )
    if cut:
        notes.append(f"{cut} of {asked.options['prompts']} prompts were cut at the tokenizer's limit")
    return Classified(
        setting=setting,
        classes=asked.classes,
        templates=asked.templates,
        prompts=asked.prompts,
        vectors=vectors,
        rows=labelled.rows,
        labels=labels,
        predicted=predicted,
        ranks=ranks,
        scores=pair_scores(images, vectors, every, predicted),
        own_scores=pair_scores(images, vectors, every, labels),
        skipped=labelled.skipped,
        notes=tuple(notes),
        options={"convention": convention, **asked.options},
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
        options=found.options,
        notes=found.notes,
        seed=seed,
        per_class={
            name.label: share_figure(right[found.labels == c], seed=seed)
            for c, name in enumerate(found.classes)
            if recalls.rows[c]
        },
        confused=tuple(
            Confusion(
                label=found.classes[pair.label].label,
                taken_for=found.classes[pair.predicted].label,
                images=pair.count,
                of=int(recalls.rows[pair.label]),
            )
            for pair in confused_pairs(found.predicted, found.labels, CONFUSED_PAIRS)
        ),
        **found.setting.report_fields(*of_encoder(found.setting.text_card)),
    )


def zeroshot_outcomes(found: Classified) -> dict[str, Outcomes]:
    """What became of each image."""
    ids = image_ids(found.setting.store, found.rows)
    labels = [found.classes[c].label for c in found.labels]
    return {"image_to_class": class_outcomes(ids, found.ranks, labels)}
