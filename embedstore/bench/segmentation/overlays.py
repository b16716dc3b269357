"""Pictures of a segmentation: thumbnail, truth and prediction side by side, drawn in memory."""

from __future__ import annotations

import colorsys
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from embedstore.bench.segmentation.maps import picture_maps
from embedstore.errors import StoreError, UsageError
from embedstore.store import files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

    from embedstore.bench.segment import Segmented
    from embedstore.bench.segmentation.classes import Classes
    from embedstore.encoders.placement import Placement
    from embedstore.shapes import AnyArray, ByteArray, IntArray

STRENGTH = 0.6
_GOLDEN = 0.618033988749895
_GREY = (127, 127, 127)
_LINE, _GAP, _TEXT = 20, 6, 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """One picture as the model sees it.

    row: of the images table; iou: the mean over its foreground classes, NaN where it has none; picture:
    `(h, w, 3)` uint8, grey where the store keeps no thumbnail; truth and predicted `(h, w)`: places of
    `labels`, in truth -1 where nothing is labelled; background: its place, if there is one.
    """

    row: int
    iou: float
    picture: ByteArray
    truth: AnyArray
    predicted: AnyArray
    labels: tuple[str, ...]
    background: int | None

    def over(self, places: AnyArray) -> Image.Image:
        """The picture under the colours of classes; the background and unlabelled pixels stay as they are."""
        coloured = places >= 0
        if self.background is not None:
            coloured &= places != self.background
        tints = colours(len(self.labels))[np.where(coloured, places, 0)]
        mixed = (1 - STRENGTH) * self.picture + STRENGTH * tints
        return Image.fromarray(np.where(coloured[..., None], mixed.round(), self.picture).astype(np.uint8))

    @property
    def shown(self) -> tuple[int, ...]:
        """The places of the classes that have a colour in it."""
        there = {int(p) for part in (self.truth, self.predicted) for p in np.unique(part)}
        return tuple(sorted(there - {-1, self.background}))

    def sheet(self) -> Image.Image:
        """The picture, the truth and the prediction, and below them which colour is which class."""
        panels = [Image.fromarray(self.picture), self.over(self.truth), self.over(self.predicted)]
        high, wide = self.picture.shape[:2]
        whole = Image.new(
            "RGB", (3 * wide + 2 * _GAP, high + _LINE * (1 + len(self.shown)) + _GAP), (255, 255, 255)
        )
        draw, font = ImageDraw.Draw(whole), ImageFont.load_default(size=_TEXT)
        titles = ("picture", "truth", "prediction")
        for k, (panel, title) in enumerate(zip(panels, titles, strict=True)):
            left = k * (wide + _GAP)
            whole.paste(panel, (left, _LINE))
            draw.text((left, 1), title, fill=(0, 0, 0), font=font)
        palette = colours(len(self.labels))
        for k, place in enumerate(self.shown):
            top = high + _LINE * (1 + k) + _GAP
            draw.rectangle((0, top, _TEXT, top + _TEXT), fill=tuple(palette[place].tolist()))
            draw.text((_LINE, top - 1), self.labels[place], fill=(0, 0, 0), font=font)
        return whole


def colours(count: int) -> ByteArray:
    """`(count, 3)` RGB: hues a golden section apart, so that neighbours in the list differ."""
    found = [
        colorsys.hsv_to_rgb((k * _GOLDEN) % 1.0, 0.95 - 0.25 * (k % 2), 0.95 - 0.2 * (k % 3))
        for k in range(count)
    ]
    return np.round(255 * np.array(found).reshape(-1, 3)).astype(np.uint8)


def spread(found: Segmented, count: int) -> IntArray:
    """Places in `found.rows` of `count` images, evenly from the worst IoU to the best."""
    iou = found.image_iou
    order = np.argsort(iou, kind="stable")[: np.isfinite(iou).sum()]
    chosen = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(np.int64)
    places: IntArray = order[np.unique(chosen)]
    return places


def draw_overlays(found: Segmented, places: IntArray) -> Iterator[Overlay]:
    """The images at these places of `found.rows`, segmented anew, in the order given."""
    iou, rows = found.image_iou[places], found.rows[places]
    thumbnails = found.setting.store.thumbnails(rows)
    classes = found.classes
    maps = picture_maps(found.setting, rows, classes.vectors, classes.place_of)
    for one, quality, jpeg in zip(maps, iou, thumbnails, strict=True):
        if one is None:
            raise UsageError("an image without a mask", found=f"one of rows {rows.tolist()[:10]}")
        yield Overlay(
            row=one.row,
            iou=float(quality),
            picture=_picture(jpeg, one.placement, one.truth.shape),
            truth=one.truth,
            predicted=classes.answer(one.maps)[1],
            labels=classes.labels,
            background=_background(classes),
        )


def write_overlays(found: Segmented, folder: str | PathLike[str], *, count: int = 24) -> list[Path]:
    """Write a PNG for each of `count` images from the worst IoU to the best, named so that they sort.

    The folder is made where it is not there; files of the same name are replaced. `UsageError` where it
    cannot be written.
    """
    place = Path(folder)
    written = []
    try:
        place.mkdir(parents=True, exist_ok=True)
        for overlay in draw_overlays(found, spread(found, count)):
            path = place / f"iou-{overlay.iou:.3f}-row-{overlay.row:07d}.png"
            png = io.BytesIO()
            overlay.sheet().save(png, format="PNG")
            files.replace(path, png.getvalue())
            written.append(path)
    except (OSError, StoreError) as bad:
        raise UsageError("cannot write the overlays", where=place, found=bad) from None
    return written


def _background(classes: Classes) -> int | None:
    return len(classes.foreground) if classes.has_background else None


def _picture(jpeg: bytes | None, placement: Placement, shape: tuple[int, ...]) -> ByteArray:
    """A thumbnail of the whole picture, cut and resized to what the model sees."""
    high, wide = shape[0], shape[1]
    if jpeg is None:
        return np.full((high, wide, 3), _GREY, dtype=np.uint8)
    with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as small:
        left, upper, right, lower = placement.box
        box = left * small.width, upper * small.height, right * small.width, lower * small.height
        found = small.convert("RGB").resize((wide, high), Image.Resampling.BICUBIC, box=box)
    return np.asarray(found)
