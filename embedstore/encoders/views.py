"""Augmented views of a picture: named, seeded, and the same wherever and in whatever batch they are made.

A view is a pure function of its kind and options, the seed, its number and the row's id. Nothing else has a
part in it: not the row's place, the unit, the batch, the worker or the device.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import numpy as np

from embedstore.documents import ViewCard
from embedstore.encoders.base import cards_of, encode_all
from embedstore.errors import EncoderError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from PIL.Image import Image

    from embedstore.documents import EncoderCard, ProcessorCard
    from embedstore.encoders.base import ImageBatch, ImageEncoder
    from embedstore.shapes import Float32Array

RANDOM_RESIZED_CROP = "random-resized-crop"
# Option to its default: shares of the picture's area, width over height, probability of a mirror image. Six
# digits, since a card says them with six.
_OPTIONS: Mapping[str, tuple[float, ...]] = {"scale": (0.08, 1.0), "ratio": (0.75, 1.33333), "flip": (0.0,)}
_ATTEMPTS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One view of every picture: a random crop, resized to what the model sees, perhaps mirrored.

    `scale`: lowest and highest share of the picture's area; `ratio`: of width to height, drawn evenly over
    its logarithm; `flip`: how often it is mirrored.
    """

    scale: tuple[float, float]
    ratio: tuple[float, float]
    flip: float
    seed: int
    number: int

    @property
    def card(self) -> ViewCard:
        """What a card says of it."""
        options = {"scale": self.scale, "ratio": self.ratio, "flip": (self.flip,)}
        written = "&".join(f"{name}={','.join(f'{v:g}' for v in value)}" for name, value in options.items())
        return ViewCard(kind=f"{RANDOM_RESIZED_CROP}?{written}", seed=self.seed, number=self.number)

    def box(self, size: tuple[int, int], row_id: str) -> tuple[tuple[int, int, int, int], bool]:
        """Left, top, right and bottom of the crop of a picture `(width, height)`; whether it is mirrored.

        As torchvision's RandomResizedCrop: ten attempts to fit, then the middle of the picture.
        """
        draw = _Draws(self.seed, self.number, row_id)
        mirrored = draw.one() < self.flip
        width, height = size
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(_ATTEMPTS):
            area = width * height * (self.scale[0] + draw.one() * (self.scale[1] - self.scale[0]))
            shape = math.exp(low + draw.one() * (high - low))
            left, top = draw.one(), draw.one()
            wide, tall = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
            if 0 < wide <= width and 0 < tall <= height:
                x, y = math.floor(left * (width - wide + 1)), math.floor(top * (height - tall + 1))
                return (x, y, x + wide, y + tall), mirrored
        return _middle(width, height, self.ratio), mirrored


def _middle(width: int, height: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """The largest crop in the middle whose shape is allowed."""
    wide = min(width, max(1, round(height * ratio[1])))
    tall = min(height, max(1, round(width / ratio[0])))
    x, y = (width - wide) // 2, (height - tall) // 2
    return x, y, x + wide, y + tall


class _Draws:
    """Numbers in [0, 1) of one view of one row: the first 53 bits of blake2b over key and count."""

    def __init__(self, seed: int, number: int, row_id: str) -> None:
        self._key = f"{seed} {number} {row_id}".encode("utf-8", "surrogatepass")
        self._count = 0

    def one(self) -> float:
        digest = hashlib.blake2b(self._key, digest_size=8, salt=self._count.to_bytes(4, "big")).digest()
        self._count += 1
        return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def parse_views(text: str, *, count: int, seed: int) -> tuple[View, ...]:
    """The views 1 to `count` of `random-resized-crop[?scale=LOW,HIGH&ratio=LOW,HIGH&flip=P]`.

    Raises `UnknownNameError` for another kind, `UsageError` for options that cannot be meant.
    """
    kind, _, query = text.partition("?")
    if kind != RANDOM_RESIZED_CROP:
        raise UnknownNameError(f"unknown kind of view {kind!r}", where="--view", allowed=RANDOM_RESIZED_CROP)
    values: dict[str, tuple[float, ...]] = dict(_OPTIONS)
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            raise UsageError(f"unknown option {name!r}", where=f"--view {text}", allowed=", ".join(_OPTIONS))
        values[name] = _numbers(value, name, text)
    return tuple(_view(values, seed, number) for number in range(1, count + 1))


def view_of(card: EncoderCard) -> View | None:
    """The view of a card, to be made again."""
    if card.view is None:
        return None
    (view,) = parse_views(card.view.kind, count=1, seed=card.view.seed)
    return View(scale=view.scale, ratio=view.ratio, flip=view.flip, seed=view.seed, number=card.view.number)


def _view(values: Mapping[str, tuple[float, ...]], seed: int, number: int) -> View:
    scale, ratio, (flip,) = values["scale"], values["ratio"], values["flip"]
    return View(scale=(scale[0], scale[1]), ratio=(ratio[0], ratio[1]), flip=flip, seed=seed, number=number)


def _numbers(value: str, name: str, text: str) -> tuple[float, ...]:
    wanted, most = len(_OPTIONS[name]), {"scale": 1.0, "ratio": 100.0, "flip": 1.0}[name]
    parts = value.split(",")
    plain = all(re.fullmatch(r"[0-9]+(\.[0-9]+)?", part) for part in parts)
    # As a card writes them, so that what is read from it is what was used.
    found = tuple(float(f"{float(part):g}") for part in parts) if plain else ()
    positive = name == "flip" or all(number > 0 for number in found)
    if len(found) != wanted or list(found) != sorted(found) or not positive or found[-1] > most:
        shape = "LOW,HIGH, not 0" if wanted == 2 else "one number"
        raise UsageError(
            f"bad {name}", where=f"--view {text}", found=value, allowed=f"{shape}, at most {most:g}"
        )
    return found


class ViewPreparation:
    """All views of a picture as pixels; called without a row it prepares the picture itself."""

    def __init__(self, plain: Any, processor: ProcessorCard, views: Sequence[View | None]) -> None:
        """`plain`: the encoder's own preparation, which a view of none is; it may be sent to processes."""
        self._plain, self._processor, self._views = plain, processor, tuple(views)
        self.count = len(self._views)
        self._filter = _filter(processor)

    def __call__(self, picture: Image) -> Float32Array:
        """The picture itself, `(3, h, w)` float32."""
        found: Float32Array = self._plain(picture)
        return found

    def of_row(self, picture: Image, row_id: str) -> Float32Array:
        """Every view of the picture of a row, `(count, 3, h, w)` float32."""
        return np.stack(
            [self(picture) if view is None else self._pixels(picture, view, row_id) for view in self._views]
        )

    def _pixels(self, picture: Image, view: View, row_id: str) -> Float32Array:
        from PIL.Image import Resampling, Transpose

        box, mirrored = view.box(picture.size, row_id)
        height, width = self._processor.size
        image = picture if picture.mode == "RGB" else picture.convert("RGB")
        image = image.resize((width, height), Resampling[self._filter], box=box)
        if mirrored:
            image = image.transpose(Transpose.FLIP_LEFT_RIGHT)
        pixels = np.asarray(image, np.float32) * np.float32(self._processor.rescale)
        mean, std = (np.array(v, np.float32) for v in (self._processor.mean, self._processor.std))
        return np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1))


def _filter(processor: ProcessorCard) -> str:
    from PIL.Image import Resampling

    name = processor.interpolation.partition("+")[0].upper().removesuffix("-EXACT")
    if name not in Resampling.__members__:
        raise EncoderError(
            "views cannot be made for this encoder: its interpolation is not one of Pillow's",
            found=processor.interpolation,
            allowed=", ".join(filter_.lower() for filter_ in Resampling.__members__),
        )
    return name


class ViewedImages:
    """An encoder over views of the pictures: one feature for each view and each feature of the encoder.

    Used like any other encoder it sees the picture itself; the views are made where the row is known.
    """

    def __init__(self, encoder: ImageEncoder, wanted: Sequence[tuple[View | None, int]]) -> None:
        """`wanted`: of each feature its view, and which of the encoder's own features it is."""
        plain, self._encoder, self._wanted = cards_of(encoder), encoder, tuple(wanted)
        self._views = tuple(dict.fromkeys(view for view, _ in wanted))
        self._outputs = tuple((self._views.index(view), output) for view, output in wanted)
        self.cards = tuple(
            plain[output].model_copy(update={"view": view.card if view else None}) for view, output in wanted
        )
        processor = plain[0].processor
        if processor is None:
            raise EncoderError("an encoder of pictures needs a processor", where=plain[0].model)
        own = getattr(encoder, "preparation", None)
        self.prepare = ViewPreparation(own or encoder.prepare, processor, self._views)
        if own is not None:
            self.preparation = self.prepare

    @property
    def card(self) -> EncoderCard:
        """The card of the first feature."""
        return self.cards[0]

    def only(self, outputs: Sequence[int]) -> ViewedImages:
        """The encoder of some of the features, in this order, with the same weights in memory."""
        return ViewedImages(self._encoder, [self._wanted[output] for output in outputs])

    def encode(self, pixels: Sequence[Float32Array]) -> ImageBatch:
        """The pictures themselves, as the encoder alone would."""
        return self._encoder.encode(pixels)

    def encode_all(self, pixels: Sequence[Float32Array]) -> tuple[ImageBatch, ...]:
        """All views of some rows `(v, 3, h, w)`: a forward pass a view, so a batch is as large as without."""
        made = [encode_all(self._encoder, [one[view] for one in pixels]) for view in range(len(self._views))]
        return tuple(made[view][output] for view, output in self._outputs)
