"""What became of each image of a segmentation, class by class: for comparisons row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from embedstore.bench.outcomes import Outcomes, image_ids
from embedstore.metrics.statistics import Statistic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedstore.bench.segment import Segmented
    from embedstore.bench.segmentation.figures import ImageIous
    from embedstore.metrics.iou import Overlap
    from embedstore.shapes import AnyArray

_ACCURACY = Statistic(kind="ratio", value="right", over="pixels")


def segment_outcomes(found: Segmented) -> dict[str, Outcomes]:
    """Group of the report -> a row for each image, and one for each of its classes."""
    ids = image_ids(found.setting.store, found.rows)
    labels, count = found.classes.labels, len(found.classes.foreground)
    outside, labelled, pixels = found.pixels.T
    groups = {
        "pixels": Outcomes(
            ids=ids,
            values={
                "outside": outside,
                "labelled": labelled,
                "unlabelled": pixels - labelled,
                "pixels": pixels,
            },
            statistics={
                "outside-crop": Statistic(kind="ratio", value="outside", over="labelled"),
                "unlabelled": Statistic(kind="ratio", value="unlabelled", over="pixels"),
            },
        )
    }
    if found.convention == "freeze-align":
        return groups | {"per_image": _of_images(ids, found.ious, labels[:count])}
    groups["foreground"] = _of_sums(ids, found.foreground, labels[:count], background=None)
    if found.with_background is not None:
        groups["with_background"] = _of_sums(ids, found.with_background, labels, background=labels[count])
    return groups


def _of_sums(ids: pa.Array, counts: Overlap, labels: Sequence[str], *, background: str | None) -> Outcomes:
    """Pixels of each image and class; classes that no mask has are left out, as of the mean."""
    present = counts.sum().true > 0
    statistics = {"mean-iou": Statistic(kind="stratum-ratio", value="intersection", over="union")}
    if background is not None:
        statistics["foreground-iou"] = Statistic(
            kind="stratum-ratio", value="intersection", over="union", without=background
        )
    return _rows(
        ids,
        labels,
        (counts.union > 0) & present,
        whole={"right": counts.shared.sum(axis=1), "pixels": counts.true.sum(axis=1)},
        classes={"intersection": counts.shared, "union": counts.union},
        statistics=statistics | {"pixel-accuracy": _ACCURACY},
    )


def _of_images(ids: pa.Array, ious: ImageIous, labels: Sequence[str]) -> Outcomes:
    """IoU of each image, and of each image and class."""
    return _rows(
        ids,
        labels,
        ious.present,
        whole={"image-iou": ious.iou.sum(axis=1) / ious.present.sum(axis=1)},
        classes={"class-iou": ious.iou},
        statistics={
            "mean-iou": Statistic(kind="mean", value="image-iou"),
            "mean-class-iou": Statistic(kind="stratum-mean", value="class-iou"),
        },
    )


def _rows(
    ids: pa.Array,
    labels: Sequence[str],
    counted: AnyArray,
    *,
    whole: Mapping[str, AnyArray],
    classes: Mapping[str, AnyArray],
    statistics: Mapping[str, Statistic],
) -> Outcomes:
    """A row for each image, without a stratum, and behind them one for each image and class in `counted`."""
    image, place = np.nonzero(counted)
    of_classes, of_images = np.full(len(image), np.nan), np.full(len(ids), np.nan)
    values = {name: np.concatenate([of, of_classes]) for name, of in whole.items()}
    values |= {name: np.concatenate([of_images, of[image, place]]) for name, of in classes.items()}
    strata = pa.array(labels, pa.string()).take(pa.array(place))
    return Outcomes(
        ids=pa.concat_arrays([ids, ids.take(pa.array(image))]),
        strata=pa.concat_arrays([pa.nulls(len(ids), pa.string()), strata]),
        values=values,
        statistics=statistics,
    )
