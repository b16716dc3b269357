"""Pixels of a scene: the picture with Pillow, the class map with the same outlines.

Everything is drawn at twice the size and reduced, which smooths edges; a pixel belongs to a thing in the
class map when at least half of it is covered.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from embedstore.sources.scenes.outlines import OUTLINES
from embedstore.sources.scenes.world import SHAPES, brightened

if TYPE_CHECKING:
    import numpy.typing as npt

    from embedstore.shapes import ByteArray, Float32Array
    from embedstore.sources.scenes.world import Rgb, Scene, Thing

_OVER = 2
_ON, _OFF = np.uint8(255), np.uint8(0)


def draw_picture(scene: Scene, size: int) -> Image.Image:
    """The picture, RGB, `size` × `size` pixels."""
    canvas = Image.fromarray(_ground(scene, size))
    for thing in scene.things:
        stencil, box = _stencil(thing, size)
        canvas.paste(_surface(thing, stencil), box, stencil.reduce(_OVER))
    if scene.blur:
        canvas = canvas.filter(ImageFilter.GaussianBlur(scene.blur * size))
    if scene.light != "even":
        canvas = ImageChops.multiply(canvas, _light(scene.light, size))
    pixels = np.asarray(canvas).astype(np.int16)
    pixels += (
        (_bytes(scene.detail, size * size) * (scene.noise / 128) - scene.noise)
        .astype(np.int16)
        .reshape(size, size, 1)
    )
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def draw_mask(scene: Scene, size: int) -> ByteArray:
    """Class ids `(size, size)` uint8: 0 is the background, 1 + i is `SHAPES[i]`."""
    ids = Image.new("L", (size, size))
    for thing in scene.things:
        stencil, box = _stencil(thing, size)
        covered = stencil.reduce(_OVER).point([0] * 128 + [255] * 128)
        ids.paste(1 + SHAPES.index(thing.shape), (box[0], box[1], box[2], box[3]), covered)
    return np.array(ids)


def _bytes(seed: int, n: int) -> ByteArray:
    """`n` random bytes from the raw stream of the generator, which NumPy keeps between versions."""
    words: npt.NDArray[np.uint64] = np.random.Philox(key=seed).random_raw(-(-n // 8))
    return np.frombuffer(words.astype("<u8").tobytes(), np.uint8, count=n)


def _ground(scene: Scene, size: int) -> ByteArray:
    base = np.array(scene.ground_rgb, np.float32)
    if scene.ground_pattern == "plain":
        return np.broadcast_to(base.astype(np.uint8), (size, size, 3)).copy()
    levels = base + _ground_field(scene, size)[:, :, None]
    return levels.clip(0, 255).astype(np.uint8)


def _ground_field(scene: Scene, size: int) -> Float32Array:
    """What the pattern adds to the background, in grey levels, `(size, size)` float32."""
    unit = (np.arange(size, dtype=np.float32) + 0.5) / size
    if scene.ground_pattern == "fading":
        angle = 2 * math.pi * scene.phase
        slope = math.cos(angle) * (unit[None] - 0.5) + math.sin(angle) * (unit[:, None] - 0.5)
        return (60 * slope).astype(np.float32)
    if scene.ground_pattern == "grainy":
        side = max(2, size // 2)
        coarse = Image.fromarray(_bytes(scene.detail + 1, side * side).reshape(side, side))
        return (np.asarray(coarse.resize((size, size), Image.Resampling.NEAREST), np.float32) - 128) * 0.24
    if scene.ground_pattern == "tiled":
        line = ((unit * (7 + 5 * scene.phase) + scene.phase) % 1) < 0.16
        return np.where(line[None] | line[:, None], np.float32(-30), np.float32(8))
    coarse = Image.fromarray(_bytes(scene.detail + 1, 49).reshape(7, 7))
    return (np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), np.float32) - 128) * 0.28


def _stencil(thing: Thing, size: int) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """The thing's outline, mode L at `_OVER` times the size, and its box in the picture's pixels.

    The box may reach over the border of the picture; pasting cuts it.
    """
    left, top = (math.floor((v - thing.radius) * size) - 1 for v in (thing.x, thing.y))
    side = math.ceil(2 * thing.radius * size) + 3
    stencil = Image.new("L", (side * _OVER, side * _OVER))
    pen = ImageDraw.Draw(stencil)
    turn = math.radians(thing.tilt)
    cos, sin, scale = math.cos(turn), math.sin(turn), thing.radius * size * _OVER
    dx, dy = (thing.x * size - left) * _OVER, (thing.y * size - top) * _OVER
    for k, outline in enumerate(OUTLINES[thing.shape]):
        corners = [(dx + scale * (x * cos - y * sin), dy + scale * (x * sin + y * cos)) for x, y in outline]
        pen.polygon(corners, fill=0 if k else 255)
    return stencil, (left, top, left + side, top + side)


def _surface(thing: Thing, stencil: Image.Image) -> Image.Image:
    """Colours of the thing's box at the picture's own scale, mode RGB."""
    side = stencil.width // _OVER
    plain = Image.new("RGB", (side, side), thing.rgb)
    if thing.texture == "plain":
        return plain
    if thing.texture == "outlined":
        border = max(1.0, 0.055 * stencil.width)
        core = stencil.filter(ImageFilter.BoxBlur(border)).point([0] * 236 + [255] * 20)
        rim = Image.new("RGB", (side, side), _against(thing.rgb, 0.95))
        return Image.composite(plain, rim, core.reduce(_OVER))
    second = Image.new("RGB", (side, side), _against(thing.rgb, 0.6))
    marks = Image.fromarray(_marks(thing, stencil.width)).reduce(_OVER)
    return Image.composite(second, plain, marks)


def _marks(thing: Thing, width: int) -> ByteArray:
    """Where the second colour of a pattern goes, `(width, width)` uint8, 0 or 255."""
    line = (np.arange(width, dtype=np.float32) + 0.5) / width - 0.5
    turn = math.radians(thing.tilt) + (thing.phase * math.pi if thing.texture == "striped" else 0.0)
    cos, sin = math.cos(turn), math.sin(turn)
    u = cos * line[None] + sin * line[:, None]
    if thing.texture == "striped":
        return np.where((u * 5 + thing.phase) % 1 < 0.42, _ON, _OFF)
    v = cos * line[:, None] - sin * line[None]
    cells = 5 if thing.size == "large" else 4
    u, v = u * cells + thing.phase, v * cells + thing.phase
    if thing.texture == "checked":
        return np.where((np.floor(u) + np.floor(v)) % 2 == 0, _ON, _OFF)
    return np.where((u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.33**2, _ON, _OFF)


def _against(rgb: Rgb, share: float) -> Rgb:
    """The colour moved towards white or black, whichever is further, by this share of the way."""
    end = 255 if brightened(rgb) else 0
    red, green, blue = (round(v + share * (end - v)) for v in rgb)
    return red, green, blue


@lru_cache(maxsize=16)
def _light(side: str, size: int) -> Image.Image:
    """How much of its brightness each pixel keeps, mode RGB, 255 is all of it."""
    levels = np.broadcast_to(np.linspace(255, 165, size).astype(np.uint8), (size, size))
    turned = {"left": levels, "right": levels[:, ::-1], "top": levels.T, "bottom": levels.T[::-1]}[side]
    return Image.fromarray(np.ascontiguousarray(np.repeat(turned[:, :, None], 3, axis=2)))
