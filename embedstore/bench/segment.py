"""Segmentation: every patch goes to the class whose prompts are nearest, compared with the masks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np

from embedstore.bench.measured import Measured, report_of
from embedstore.bench.rows import select_images
from embedstore.bench.segmentation.classes import class_list
from embedstore.bench.segmentation.figures import (
    ImageIous,
    dataset_chance,
    dataset_figures,
    image_chance,
    image_figures,
    image_ious,
    pixel_figures,
)
from embedstore.bench.segmentation.maps import check_feature, picture_maps, stored_grid
from embedstore.bench.segmentation.outcomes import segment_outcomes
from embedstore.bench.setting import Setting, open_setting
from embedstore.bench.versions import of_encoder
from embedstore.documents import BenchReport
from embedstore.errors import UsageError
from embedstore.metrics.iou import Overlap, pixel_confusion

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from os import PathLike

    from embedstore.bench.segmentation.classes import Classes
    from embedstore.bench.segmentation.maps import PictureMaps
    from embedstore.documents import Figure
    from embedstore.model.descriptions import Descriptions
    from embedstore.shapes import FloatArray, IntArray
    from embedstore.store import Store

Convention: TypeAlias = Literal["dataset", "freeze-align"]

NO_MASK = "an image without a mask"
NO_CLASS_SEEN = "an image of whose mask the model sees no foreground class"
THRESHOLD = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmented:
    """Everything of one segmentation task.

    rows `(n,)` of the images table that were measured; foreground and with_background: pixels of each
    image `(n, c)`, the first over pixels of foreground classes alone, the other none where there is no
    background; ious: of each image by the published convention; confusion `(c, c)` of all pixels, truth
    first; pixels `(n, 3)`: of `PictureMaps` outside, labelled and all.
    """

    setting: Setting
    classes: Classes
    convention: Convention
    rows: IntArray
    foreground: Overlap
    with_background: Overlap | None
    ious: ImageIous
    confusion: IntArray
    pixels: IntArray
    skipped: dict[str, int]

    @property
    def image_iou(self) -> FloatArray:
        """Mean IoU of each image `(n,)` over the foreground classes in its mask, NaN where there is none."""
        whole = self.with_background or self.foreground
        count = len(self.classes.foreground)
        present = whole.true[:, :count] > 0
        iou = np.where(present, whole.iou[:, :count], 0.0)
        mean: FloatArray = np.divide(
            iou.sum(axis=1), present.sum(axis=1), out=np.full(len(iou), np.nan), where=present.any(axis=1)
        )
        return mean


def measure_segment(
    store: Store | str | PathLike[str],
    head_dir: str | PathLike[str],
    *,
    image: str | None = None,
    split: str | None = "test",
    classes: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
    descriptions: Descriptions | None = None,
    background: str | float = "words",
    convention: Convention = "dataset",
    text_encoder: str | None = None,
    device: str = "auto",
    seed: int = 0,
    rows: IntArray | str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Measured:
    """Mean IoU and pixel accuracy of a split (none: every image) by its masks.

    Each patch is embedded by itself, the cosines with the class embeddings (as of `zeroshot`) are upsampled
    bilinearly to what the model sees of the picture, and the mask goes through the same resize and crop.
    Group `foreground`: pixels of foreground classes, each called the nearest of these. Group
    `with_background`, where the masks have a class `background`: all labelled pixels; one is called
    background where the word is nearer than every class (background 'words'), or where no class reaches a
    cosine (background a number). Mean IoU is over the sums of all images, over classes of which there is a
    pixel; group `pixels`: what share the crop took away, and what share has no class.
    convention 'freeze-align': group `per_image`; of each class in an image's mask the map is stretched to
    0..1 and cut at 0.4, whatever the other classes, and pixels of no class count as not of it.

    classes: lines as `parse_classes` reads them, labels of the plan's classes; pixels of others do not
    count. templates and descriptions: see `class_prompts`. image: the feature; else of those with the head's
    card, one that has a grid. Intervals: 95 % bootstrap over images. Raises as `open_setting`; `UsageError`
    for a store without masks, a feature without a grid and bad options.
    """
    if convention not in get_args(Convention):
        raise UsageError("unknown convention", found=convention, allowed=", ".join(get_args(Convention)))
    setting = gridded(
        open_setting(store, head_dir, split=split, device=device, image=image, rows=rows, texts=False),
        named=image,
    )
    found = segment(
        setting,
        class_list(
            setting,
            classes,
            templates=templates,
            descriptions=descriptions,
            background=background,
            text_encoder=text_encoder,
        ),
        split=split,
        convention=convention,
        on_progress=on_progress,
    )
    return Measured(
        report=segment_report(found, split=split, seed=seed), found=found, outcomes=segment_outcomes(found)
    )


bench_segment = report_of(measure_segment)


def gridded(setting: Setting, *, named: str | None) -> Setting:
    """The same with a feature that has patches on a grid; `UsageError` where the store has none.

    A head may have been fitted on merged tokens of an encoder whose patches are stored too.
    """
    if named is None and stored_grid(setting.image) is None:
        card = setting.image.card
        for name in setting.store.features():
            header = setting.store.header(name)
            if not card.differences(header.card) and setting.store.complete(name):
                other = setting.store[name]
                if stored_grid(other) is not None:
                    return replace(setting, image=other)
    check_feature(setting.image)
    return setting


def segment(
    setting: Setting,
    classes: Classes,
    *,
    split: str | None,
    convention: Convention = "dataset",
    on_progress: Callable[[int, int], None] | None = None,
) -> Segmented:
    """Select the pictures with masks and count their pixels."""
    chosen, skipped = select_images(setting.store, setting.image, split=split, rows=setting.rows)
    if not chosen.size:
        raise UsageError("nothing to measure", found="no picture of these rows could be read")
    counted: list[_Counts] = []
    table = np.zeros((len(classes.labels), len(classes.labels)), dtype=np.int64)
    skipped |= {NO_MASK: 0, NO_CLASS_SEEN: 0}
    for done, maps in enumerate(picture_maps(setting, chosen, classes.vectors, classes.place_of), start=1):
        counts = None if maps is None else _count(maps, classes, table)
        if counts is None:
            skipped[NO_MASK] += 1
        elif convention == "freeze-align" and not counts.ious.present.any():
            skipped[NO_CLASS_SEEN] += 1
        else:
            counted.append(counts)
        if on_progress is not None:
            on_progress(done, len(chosen))
    if not counted:
        raise UsageError(
            "nothing to measure", found="; ".join(f"{n}: {why}" for why, n in skipped.items() if n)
        )
    return Segmented(
        setting=setting,
        classes=classes,
        convention=convention,
        rows=np.array([c.row for c in counted], dtype=np.int64),
        foreground=Overlap.stack([c.foreground for c in counted]),
        with_background=Overlap.stack([c.whole for c in counted]) if classes.has_background else None,
        ious=ImageIous.stack([c.ious for c in counted]),
        confusion=table,
        pixels=np.array([c.pixels for c in counted], dtype=np.int64),
        skipped=skipped,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counts:
    """What one picture adds."""

    row: int
    foreground: Overlap
    whole: Overlap
    ious: ImageIous
    pixels: tuple[int, int, int]


def _count(picture: PictureMaps, classes: Classes, table: IntArray) -> _Counts:
    """The counts of a picture, which are added to the confusion `table (c, c)` of all."""
    truth, count = picture.truth, len(classes.foreground)
    best, answer = classes.answer(picture.maps)
    of_things = np.where(truth < count, truth, -1)
    whole = pixel_confusion(answer, truth, len(classes.labels))
    table += whole
    return _Counts(
        row=picture.row,
        foreground=Overlap.of(pixel_confusion(best, of_things, count)),
        whole=Overlap.of(whole),
        ious=image_ious(picture.maps[:count], of_things, threshold=THRESHOLD),
        pixels=(picture.outside, picture.labelled, picture.pixels),
    )


def segment_report(found: Segmented, *, split: str | None, seed: int) -> BenchReport:
    """The figures of what was segmented, with intervals and chance."""
    figures, chance, per_class = (
        _per_image(found, seed) if found.convention == "freeze-align" else _sums(found, seed)
    )
    figures["pixels"] = pixel_figures(found.pixels, seed=seed)
    return BenchReport(
        task="segment",
        metrics=figures,
        chance=chance,
        images=len(found.rows),
        classes=len(found.classes.foreground),
        skipped={reason: count for reason, count in found.skipped.items() if count},
        split=split,
        templates=found.classes.templates,
        options=_options(found),
        notes=(*found.setting.notes, *_notes(found)),
        seed=seed,
        per_class=per_class,
        **found.setting.report_fields(*of_encoder(found.setting.text_card)),
    )


_Figures: TypeAlias = "tuple[dict[str, dict[str, Figure]], dict[str, dict[str, float]], dict[str, Figure]]"


def _sums(found: Segmented, seed: int) -> _Figures:
    """Groups, chance and classes of the data set as one large picture."""
    labels, count = found.classes.labels, len(found.classes.foreground)
    overall, classes = dataset_figures(found.foreground, labels[:count], seed=seed)
    figures, chance = {"foreground": overall}, {"foreground": dataset_chance(found.foreground.sum())}
    if found.with_background is not None:
        figures["with_background"], _ = dataset_figures(
            found.with_background, labels, things=count, seed=seed
        )
        # What random scores would be against a threshold nobody can say.
        if found.classes.below is None:
            chance["with_background"] = dataset_chance(found.with_background.sum(), things=count)
    return figures, chance, classes


def _per_image(found: Segmented, seed: int) -> _Figures:
    """Group, chance and classes by the published convention."""
    labels = [c.label for c in found.classes.foreground]
    figures, classes = image_figures(found.ious, labels, seed=seed)
    return {"per_image": figures}, {"per_image": image_chance(found.ious, 1 - THRESHOLD)}, classes


def _options(found: Segmented) -> dict[str, str | int | float | bool]:
    options: dict[str, str | int | float | bool] = {"convention": found.convention, **found.classes.options}
    if found.convention == "freeze-align":
        return options | {"threshold": THRESHOLD}
    if not found.classes.has_background:
        return options
    words = found.classes.words
    return options | {"background": words.words if words else float(found.classes.below or 0)}


def _notes(found: Segmented) -> list[str]:
    classes = found.classes
    notes = list(classes.notes)
    absent = int((found.foreground.true.sum(axis=0) == 0).sum())
    if absent:
        notes.append(
            f"{absent} of {len(classes.foreground)} classes have no pixel here; the means leave them out"
        )
    return notes
