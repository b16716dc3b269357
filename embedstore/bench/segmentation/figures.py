"""From pixel counts of images to a segmentation's figures, with intervals and chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedstore.documents import Figure
from embedstore.metrics.intervals import sums_intervals
from embedstore.metrics.iou import Overlap, chance_iou, chance_share_iou

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from embedstore.shapes import AnyArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageIous:
    """By the published convention, of one image `(c,)` or of several `(n, c)`.

    iou of each class's own map with the class, float64, 0 where it is not present; present: whether the image
    has such pixels; true: how many, of `seen` pixels in all, `()` or `(n,)`.
    """

    iou: FloatArray
    present: AnyArray
    true: IntArray
    seen: IntArray

    @classmethod
    def stack(cls, images: Sequence[ImageIous]) -> ImageIous:
        """Of several images."""
        return cls(
            iou=np.stack([i.iou for i in images]),
            present=np.stack([i.present for i in images]),
            true=np.stack([i.true for i in images]),
            seen=np.stack([i.seen for i in images]),
        )


def image_ious(maps: Tensor, truth: AnyArray, *, threshold: float) -> ImageIous:
    """Each class's map `(c, h, w)` stretched to 0..1 and cut, against the truth `(h, w)`, -1: of no class.

    A pixel is called the class where the stretched map is above the threshold; a map of one value calls none.
    """
    count = len(maps)
    true = np.bincount(truth[truth >= 0], minlength=count)
    iou = np.zeros(count)
    for c in np.flatnonzero(true):
        low, high = maps[c].min(), maps[c].max()
        called = ((maps[c] - low) > threshold * (high - low)).cpu().numpy()
        meant = truth == c
        iou[c] = np.count_nonzero(called & meant) / np.count_nonzero(called | meant)
    return ImageIous(iou=iou, present=true > 0, true=true, seen=np.asarray(truth.size))


def dataset_figures(
    counts: Overlap, labels: Sequence[str], *, things: int | None = None, seed: int
) -> tuple[dict[str, Figure], dict[str, Figure]]:
    """The figures of images `(n, c)` as one large picture, and the IoU of each class that has a pixel.

    mean-iou and pixel-accuracy; with `things`, the number of classes before the background, also
    foreground-iou, the mean without the background. Means are over the classes of which there is a pixel in
    these images; in a resample that has lost one, it counts as 0 where it is still predicted.
    """
    total = counts.sum()
    present = total.true > 0
    before = np.arange(len(present)) < (len(present) if things is None else things)
    names = ["mean-iou", *(["foreground-iou"] if things is not None else []), "pixel-accuracy"]

    def statistics(of: Overlap) -> FloatArray:
        means = [of.mean_iou(present), *([of.mean_iou(present & before)] if things is not None else [])]
        return np.concatenate([np.stack([*means, of.accuracy], axis=-1), of.iou], axis=-1)

    parts = np.concatenate([counts.shared, counts.predicted, counts.true], axis=1)
    found = _figures(statistics(total), parts, lambda sums: statistics(Overlap(**_thirds(sums))), seed=seed)
    own = [f if there else None for f, there in zip(found[len(names) :], present, strict=True)]
    return _named(names, found[: len(names)]), _named(labels, own)


def _thirds(sums: AnyArray) -> dict[str, AnyArray]:
    shared, predicted, true = np.split(sums, 3, axis=-1)
    return {"shared": shared, "predicted": predicted, "true": true}


def dataset_chance(total: Overlap, *, things: int | None = None) -> dict[str, float]:
    """The same of pixels that are called any class at random, from the pixels of each class `(c,)`."""
    count = len(total.true)
    iou, present = chance_iou(total.true, count), total.true > 0
    if not present.any():
        return {}
    chance = {"mean-iou": float(iou[present].mean()), "pixel-accuracy": 1 / count}
    if things is not None and present[:things].any():
        chance["foreground-iou"] = float(iou[:things][present[:things]].mean())
    return chance


def image_figures(
    ious: ImageIous, labels: Sequence[str], *, seed: int
) -> tuple[dict[str, Figure], dict[str, Figure]]:
    """The published convention's figures of images `(n, c)`, and the IoU of each class.

    mean-iou: over the classes of an image, then over images; mean-class-iou: over the images of a class, then
    over classes.
    """
    own = ious.iou.sum(axis=1) / ious.present.sum(axis=1)
    parts = np.concatenate([np.stack([own, np.ones_like(own)], axis=1), ious.iou, ious.present], axis=1)

    def statistics(sums: FloatArray) -> FloatArray:
        above, below = np.split(sums[..., 2:], 2, axis=-1)
        classes = np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
        over = np.nansum(classes, axis=-1) / (below > 0).sum(axis=-1)
        mean = sums[..., 0] / sums[..., 1]
        return np.concatenate([np.stack([mean, over], axis=-1), classes], axis=-1)

    found = _figures(statistics(parts.sum(axis=0)), parts, statistics, seed=seed)
    return _named(["mean-iou", "mean-class-iou"], found[:2]), _named(labels, found[2:])


def image_chance(ious: ImageIous, share: float) -> dict[str, float]:
    """The same where each map calls this share of the pixels its class, at random."""
    chance = np.where(ious.present, chance_share_iou(ious.true, ious.seen[:, None], share), 0.0)
    rows, classes = ious.present.sum(axis=1), ious.present.sum(axis=0)
    each = chance.sum(axis=0)[classes > 0] / classes[classes > 0]
    return {"mean-iou": float((chance.sum(axis=1) / rows).mean()), "mean-class-iou": float(each.mean())}


def pixel_figures(counts: IntArray, *, seed: int) -> dict[str, Figure]:
    """outside-crop: share of the labelled pixels that the model does not see; unlabelled: share of all.

    counts `(n, 3)`: of each image's resized mask the labelled pixels outside, the labelled ones, and all.
    """
    outside, labelled, pixels = counts.T
    parts = np.stack([outside, labelled, pixels - labelled, pixels], axis=1)

    def statistics(sums: FloatArray) -> FloatArray:
        above, below = sums[..., 0::2], sums[..., 1::2]
        shares: FloatArray = np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
        return shares

    found = _figures(statistics(parts.sum(axis=0)), parts, statistics, seed=seed)
    return _named(["outside-crop", "unlabelled"], found)


def _figures(
    values: FloatArray, parts: AnyArray, statistics: Callable[[FloatArray], FloatArray], *, seed: int
) -> list[Figure | None]:
    """Each of the statistics `(m,)` with its interval over the rows of `parts`; none: no value."""
    intervals = sums_intervals(parts, statistics, seed=seed)
    return [
        Figure(value=value, low=low, high=high) if np.isfinite(value) else None
        for value, (low, high) in zip(values.tolist(), intervals.tolist(), strict=True)
    ]


def _named(names: Sequence[str], figures: Sequence[Figure | None]) -> dict[str, Figure]:
    return {name: figure for name, figure in zip(names, figures, strict=True) if figure is not None}
