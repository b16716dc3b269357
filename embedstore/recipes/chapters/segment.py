"""Segmentation: what is taken for what, the IoU of each class, and pictures under their masks."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image

from embedstore.bench.segmentation.overlays import colours, draw_overlays, spread
from embedstore.recipes.chapters.classes import Taken, class_blocks
from embedstore.recipes.page.content import Block, Masked

if TYPE_CHECKING:
    from embedstore.bench.segment import Segmented
    from embedstore.bench.segmentation.overlays import Overlay
    from embedstore.documents import BenchReport

SHOWN = 8


def segment_blocks(found: Segmented, report: BenchReport) -> list[Block]:
    """The confusion of pixels, a bar for each class, and overlays from the worst picture to the best."""
    taken = Taken.of_table(found.confusion)
    blocks = class_blocks(report.per_class, found.classes.labels, taken, metric="IoU", of=" pixels")
    overlays = tuple(masked(one) for one in draw_overlays(found, spread(found, SHOWN)))
    if overlays:
        lead = "Evenly spaced from the worst picture to the best, as the encoder sees them."
        blocks.append(Block(kind="masks", title="Pictures under their masks", lead=lead, value=overlays))
    return blocks


def masked(overlay: Overlay) -> Masked:
    """The picture, the truth and the prediction, and which colour is which class."""
    palette = colours(len(overlay.labels))
    return Masked(
        panels=(
            ("picture", _jpeg(Image.fromarray(overlay.picture))),
            ("truth", _jpeg(overlay.over(overlay.truth))),
            ("prediction", _jpeg(overlay.over(overlay.predicted))),
        ),
        words=f"mean IoU {100 * overlay.iou:.1f} %",
        colours=tuple(
            ("#{:02x}{:02x}{:02x}".format(*palette[place].tolist()), overlay.labels[place])
            for place in overlay.shown
        ),
    )


def _jpeg(picture: Image.Image) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, format="JPEG", quality=85)
    return sink.getvalue()
