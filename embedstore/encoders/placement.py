"""Where the pixels of a picture lie in what a model sees of it, by its processor's card: for masks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from embedstore.errors import UsageError

if TYPE_CHECKING:
    from embedstore.documents import ProcessorCard
    from embedstore.shapes import AnyArray, IntArray

Size: TypeAlias = tuple[int, int]

# Halves are rounded to the even number by torchvision's crop, and down by transformers'.
_ROUNDED = ("open_clip", "timm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A resize and a window, all heights before widths, pixels.

    picture: the picture as it was; resized: after the resize; top, left: where the window begins in the
    resized picture, negative where a border was added; size: of the window, which is what the model sees.
    """

    picture: Size
    resized: Size
    top: int
    left: int
    size: Size

    @property
    def seen(self) -> tuple[slice, slice]:
        """The part of the resized picture that lies in the window."""
        return tuple(  # type: ignore[return-value]  # of two
            slice(max(at, 0), min(at + window, whole))
            for at, window, whole in zip((self.top, self.left), self.size, self.resized, strict=True)
        )

    @property
    def inside(self) -> tuple[slice, slice]:
        """The part of the window that shows the picture, and no added border: as large as `seen`."""
        rows, columns = self.seen
        return (
            slice(rows.start - self.top, rows.stop - self.top),
            slice(columns.start - self.left, columns.stop - self.left),
        )

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, upper, right and lower edge of `seen`, as shares of the picture's width and height."""
        rows, columns = self.seen
        high, wide = self.resized
        return columns.start / wide, rows.start / high, columns.stop / wide, rows.stop / high

    def resize(self, mask: AnyArray) -> AnyArray:
        """A mask `(h, w)` of the picture resized as the picture is, `resized`, by the nearest pixel's centre.

        `UsageError` for a mask of another size than the picture.
        """
        if mask.shape != self.picture:
            raise UsageError(
                "a mask of another size than its picture", found=mask.shape, allowed=self.picture
            )
        rows, columns = (_nearest(n, m) for n, m in zip(self.picture, self.resized, strict=True))
        return mask[np.ix_(rows, columns)]


def placement_of(card: ProcessorCard, picture: Size) -> Placement:
    """Where a picture of this height and width lies in what the model sees.

    `UsageError` for a rule of resizing that is not known, and where a picture that is taken as it is has
    another size than the model.
    """
    resized = _resized(card, picture)
    if card.crop is None and resized != card.size:
        raise UsageError(
            "the image card does not say where a picture lies in what the model sees",
            found=f"a picture of {resized[0]}x{resized[1]} after the resize {card.resize!r}, no crop",
            allowed=f"{card.size[0]}x{card.size[1]}",
        )
    offsets = [
        _offset(whole, window, rounded=card.backend in _ROUNDED)
        for whole, window in zip(resized, card.size, strict=True)
    ]
    return Placement(picture=picture, resized=resized, top=offsets[0], left=offsets[1], size=card.size)


def _resized(card: ProcessorCard, picture: Size) -> Size:
    if card.resize == "none":
        return picture
    if edge := re.fullmatch(r"shortest_edge=(\d+)", card.resize):
        short = int(edge[1])
        high, wide = picture
        # The longer side is cut to whole pixels, in transformers as in torchvision.
        return (short, int(short * wide / high)) if high <= wide else (int(short * high / wide), short)
    found = re.fullmatch(r"(exact|fill|inside)=(\d+)x(\d+)", card.resize)
    if found is None:
        raise UsageError("the image card names a resize that is not known", found=card.resize)
    target = int(found[2]), int(found[3])
    if found[1] == "exact":
        return target
    ratios = [side / goal for side, goal in zip(picture, target, strict=True)]
    ratio = min(ratios) if found[1] == "fill" else max(ratios)
    return round(picture[0] / ratio), round(picture[1] / ratio)


def _offset(whole: int, window: int, *, rounded: bool) -> int:
    """Where a centred window begins; negative where the picture is smaller and gets a border."""
    if window > whole:
        return -((window - whole) // 2)
    return round((whole - window) / 2) if rounded else (whole - window) // 2


def _nearest(count: int, wanted: int) -> IntArray:
    """The pixel in which the centre of each of the `wanted` pixels lies."""
    return (2 * np.arange(wanted) + 1) * count // (2 * wanted)
