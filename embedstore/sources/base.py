"""What a source is: samples that are cheap to list, with pictures that are opened later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL.Image import Image

    from embedstore.shapes import ByteArray

ROLES = ("caption", "long", "negative")
UNLABELLED = 255
"""The mask id of pixels that nobody labelled; no task counts them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    """One text of a sample. `role` is one of `ROLES`; `category` says what a negative altered.

    A negative stands behind the caption that it alters: the nearest one before it in its language.
    """

    text: str
    language: str = "en"
    role: str = "caption"
    category: str | None = None


@runtime_checkable
class Picture(Protocol):
    """A picture that is not decoded yet."""

    @property
    def ref(self) -> str:
        """Name of the picture inside its source: never an absolute path of the machine."""

    @property
    def nbytes(self) -> int | None:
        """Size of the encoded picture in bytes where that is known without decoding."""

    def open(self) -> Image:
        """The decoded picture, mode RGB, upright. Raises `UnreadableImage` with a reason free of paths."""


@runtime_checkable
class Mask(Protocol):
    """A per-pixel class map that is not decoded yet, in the geometry of the upright picture."""

    def open(self) -> ByteArray:
        """Class ids `(h, w)` uint8; an id indexes the source's `classes`, `UNLABELLED` says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One row to be: an id, a picture or none, and what is known about it."""

    id: str
    picture: Picture | None = None
    captions: tuple[Caption, ...] = ()
    label: str | None = None
    split: str | None = None
    mask: Mask | None = None


class Source(Protocol):
    """Samples with random access. `source[i]` decodes nothing; the order is the same every time.

    `shuffled` says whether the plan puts the rows in a seeded random order (a folder sorted by class
    must not fill a block with one class); streams that can only be read in their own order say False.
    """

    shuffled: bool

    @property
    def identity(self) -> Mapping[str, str | int | float | bool]:
        """What makes this source this one (kind and options), without any path of the machine."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; the position is the id used in masks. Empty where there are none."""

    @property
    def dropped(self) -> Mapping[str, int]:
        """What was left out while the source was listed: reason to count, to be shown to the user."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...
