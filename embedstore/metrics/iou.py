"""Segmentation from pixel counts: intersection over union of classes, over a data set or an image.

Counts of images add up, so an IoU of a data set is that of the sums (as of one large picture), and its
bootstrap draws images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import UsageError
from embedstore.metrics.accuracy import confusion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedstore.shapes import AnyArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Pixels of each class, `(..., c)`: shared by truth and prediction, predicted, and true.

    int64, or float64 where they are sums of resampled images.
    """

    shared: AnyArray
    predicted: AnyArray
    true: AnyArray

    @classmethod
    def of(cls, table: IntArray) -> Overlap:
        """From a confusion matrix `(..., c, c)`, truth on the first of the two axes."""
        return cls(
            shared=np.diagonal(table, axis1=-2, axis2=-1),
            predicted=table.sum(axis=-2),
            true=table.sum(axis=-1),
        )

    @classmethod
    def stack(cls, images: Sequence[Overlap]) -> Overlap:
        """Of several images, `(n, c)`."""
        return cls(
            shared=np.stack([image.shared for image in images]),
            predicted=np.stack([image.predicted for image in images]),
            true=np.stack([image.true for image in images]),
        )

    def sum(self) -> Overlap:
        """Over the images of `(n, c)`: `(c,)`."""
        return Overlap(
            shared=self.shared.sum(axis=0), predicted=self.predicted.sum(axis=0), true=self.true.sum(axis=0)
        )

    @property
    def union(self) -> AnyArray:
        """Pixels that are of a class by truth or prediction."""
        return self.predicted + self.true - self.shared

    @property
    def iou(self) -> FloatArray:
        """`shared / union` of each class, float64; NaN where nothing is of the class."""
        return _ratio(self.shared, self.union)

    def mean_iou(self, classes: AnyArray) -> FloatArray:
        """Mean IoU `(...)` over some classes `(c,)` bool, without those of which there is nothing; or NaN."""
        found = np.where(classes & (self.union > 0), self.iou, np.nan)
        return _ratio(np.nansum(found, axis=-1), np.isfinite(found).sum(axis=-1))

    @property
    def accuracy(self) -> FloatArray:
        """Share of the pixels whose class is right `(...)`; NaN where there is none."""
        return _ratio(self.shared.sum(axis=-1), self.true.sum(axis=-1))


def pixel_confusion(predicted: AnyArray, truth: AnyArray, classes: int) -> IntArray:
    """How many pixels of class i (first axis) were called j; `(c, c)` int64.

    predicted and truth: integers of one shape; a pixel whose truth is negative does not count. `UsageError`
    for shapes that differ and classes outside `[0, classes)`.
    """
    if predicted.shape != truth.shape:
        raise UsageError("prediction and truth are of different sizes", found=(predicted.shape, truth.shape))
    counted = truth >= 0
    meant, called = truth[counted].astype(np.int64), predicted[counted].astype(np.int64)
    for name, found in (("truth", meant), ("prediction", called)):
        if found.size and not 0 <= found.min() <= found.max() < classes:
            raise UsageError(
                f"a class of the {name} is not in the list",
                found=f"{found.min()} to {found.max()}",
                allowed=f"0 to {classes - 1}",
            )
    return confusion(called, meant, classes)


def chance_iou(true: IntArray, classes: int) -> FloatArray:
    """IoU `(c,)` expected of pixels called one of `classes` classes at random, for many pixels.

    true `(c,)`: pixels of each class. Of t of N pixels t/C are right by chance, and the union is
    t + N/C - t/C.
    """
    return _ratio(true, true * (classes - 1) + true.sum())


def chance_share_iou(true: AnyArray, pixels: AnyArray, share: float) -> FloatArray:
    """IoU expected of a share of the pixels called a class at random, where `true` of `pixels` are of it."""
    return _ratio(share * true, true + share * (pixels - true))


def _ratio(above: AnyArray, below: AnyArray) -> FloatArray:
    top, bottom = np.broadcast_arrays(np.asarray(above, np.float64), np.asarray(below, np.float64))
    found: FloatArray = np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)
    return found
