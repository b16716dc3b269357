"""What is in a scene: things with shape, colour, surface and place, drawn by lot from a seed.

Lengths are fractions of the picture's side; x grows to the right, y downwards. Nothing here knows pixels,
so the same scene is true at every picture size. Random numbers come from `random.Random.random`, whose
stream Python promises to keep; the same (seed, index) is the same scene on every machine.
"""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")

SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "heart",
    "cross",
    "ring",
    "moon",
    "hexagon",
    "diamond",
    "arrow",
    "flower",
)
COLOURS = {
    "red": (214, 40, 40),
    "orange": (245, 140, 20),
    "yellow": (246, 214, 40),
    "green": (40, 160, 60),
    "blue": (40, 90, 215),
    "purple": (130, 50, 165),
    "pink": (245, 130, 185),
    "brown": (120, 72, 36),
    "black": (22, 22, 24),
    "white": (248, 248, 248),
}
TEXTURES = ("plain", "striped", "dotted", "checked", "outlined")
SIZES = ("large", "medium-sized", "small")
GROUND_COLOURS = {
    "grey": (158, 160, 164),
    "beige": (225, 208, 176),
    "light blue": (168, 205, 235),
    "light green": (178, 222, 178),
    "lavender": (204, 190, 232),
    "dark blue": (34, 48, 98),
    "dark green": (28, 74, 52),
}
GROUND_PATTERNS = ("plain", "fading", "grainy", "tiled", "cloudy")
LIGHTS = ("even", "left", "right", "top", "bottom")
RELATIONS = ("left of", "right of", "above", "below", "inside", "in front of")
PLACES = {
    (-1, -1): "upper left",
    (0, -1): "upper middle",
    (1, -1): "upper right",
    (-1, 0): "middle left",
    (0, 0): "centre",
    (1, 0): "middle right",
    (-1, 1): "lower left",
    (0, 1): "lower middle",
    (1, 1): "lower right",
}

_SOLID = ("circle", "square", "hexagon")
_RADII = {"large": (0.21, 0.27), "medium-sized": (0.105, 0.13), "small": (0.068, 0.085)}
_CLEAR = 0.15
_CONTRAST = 95.0
Rgb = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One object. `x`, `y` (centre) and `radius` (of its bounding circle) are fractions of the side."""

    shape: str
    colour: str
    texture: str
    size: str
    x: float
    y: float
    radius: float
    tilt: float
    """Degrees, clockwise."""
    rgb: Rgb
    phase: float
    """Shift of the surface pattern, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """All facts of one picture. `things[0]` is the main one; later things lie in front of earlier ones."""

    things: tuple[Thing, ...]
    ground_colour: str
    ground_pattern: str
    ground_rgb: Rgb
    light: str
    """Where the light comes from."""
    noise: float
    """Half the range of the camera noise, in grey levels."""
    blur: float
    """Radius of the blur, fraction of the side; 0 is sharp."""
    phase: float
    detail: int
    """Seed of the noise fields."""

    @property
    def main(self) -> Thing:
        """The largest thing; its shape is the class of the sample."""
        return self.things[0]


class Dice:
    """Draws that depend on nothing but the words they were made from."""

    def __init__(self, *key: object) -> None:
        digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=16).digest()
        self._random = random.Random(int.from_bytes(digest, "big"))  # noqa: S311 - pictures, not secrets

    def share(self) -> float:
        """Uniform in [0, 1)."""
        return self._random.random()

    def between(self, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        return low + (high - low) * self.share()

    def below(self, n: int) -> int:
        """Uniform integer in [0, n)."""
        return int(self.share() * n)

    def pick(self, options: Sequence[T]) -> T:
        """One option, all equally likely."""
        return options[self.below(len(options))]

    def weighed(self, options: Sequence[T], weights: Sequence[float]) -> T:
        """One option, as likely as its weight says, from one draw."""
        reached, sums = self.share() * math.fsum(weights), accumulate(weights)
        return next((o for o, end in zip(options, sums, strict=True) if reached < end), options[-1])


def sample_scene(seed: int, index: int, *, tail: float = 0.0) -> Scene:
    """Scene number `index` of the endless data set `seed`: a pure function of the three.

    The k-th of `SHAPES` is drawn with a weight of k^-tail, for every thing: 0 makes all equally likely.
    """
    dice = Dice("scene", seed, index)
    ground_colour = dice.pick(tuple(GROUND_COLOURS))
    ground_rgb = _tinted(GROUND_COLOURS[ground_colour], dice, 8)
    things = [_main_thing(dice, ground_rgb, tail)]
    share = dice.share()
    for _ in range((share > 0.18) + (share > 0.5) + (share > 0.82)):
        thing = _further_thing(dice, things, ground_rgb, tail)
        if thing is not None:
            things.append(thing)
    return Scene(
        things=tuple(things),
        ground_colour=ground_colour,
        ground_pattern=dice.pick(GROUND_PATTERNS),
        ground_rgb=ground_rgb,
        light=dice.pick(LIGHTS),
        noise=dice.between(0, 10),
        blur=dice.between(0.003, 0.0055) if dice.share() < 0.25 else 0.0,
        phase=dice.share(),
        detail=dice.below(2**48),
    )


def split_of(seed: int, index: int) -> str:
    """About 80 % `train`, 10 % `val`, 10 % `test`; a pure function of seed and index."""
    share = Dice("split", seed, index).share()
    return "train" if share < 0.8 else "val" if share < 0.9 else "test"


def place_of(thing: Thing) -> str:
    """The ninth of the picture that holds the centre of the thing, one of `PLACES`."""
    column, row = ((v > 0.58) - (v < 0.42) for v in (thing.x, thing.y))
    return PLACES[column, row]


def relation_holds(scene: Scene, one: int, name: str, other: int) -> bool:
    """Whether `things[one]` clearly stands in this relation to `things[other]`.

    Directions compare the centres and ask for 15 % of the side between them.
    """
    a, b = scene.things[one], scene.things[other]
    distance = math.hypot(a.x - b.x, a.y - b.y)
    return {
        "left of": b.x - a.x >= _CLEAR,
        "right of": a.x - b.x >= _CLEAR,
        "above": b.y - a.y >= _CLEAR,
        "below": a.y - b.y >= _CLEAR,
        "inside": one > other and distance + a.radius <= 0.65 * b.radius,
        "in front of": one > other and 0.5 * b.radius < distance < 0.75 * b.radius,
    }[name]


def relation_fails(scene: Scene, one: int, name: str, other: int) -> bool:
    """Whether the relation is clearly false; a doubtful one neither holds nor fails."""
    a, b = scene.things[one], scene.things[other]
    apart = math.hypot(a.x - b.x, a.y - b.y) > a.radius + b.radius
    return {
        "left of": b.x - a.x <= 0.02,
        "right of": a.x - b.x <= 0.02,
        "above": b.y - a.y <= 0.02,
        "below": a.y - b.y <= 0.02,
        "inside": apart or one < other,
        "in front of": apart or one < other,
    }[name]


def brightened(rgb: Rgb) -> bool:
    """Whether patterns on this colour are lighter than it; on bright colours they are darker."""
    return sum(rgb) < 390


def distance_of(a: Rgb, b: Rgb) -> float:
    """Euclidean distance of two colours, in grey levels."""
    return math.dist(a, b)


def _tinted(rgb: Rgb, dice: Dice, spread: int) -> Rgb:
    red, green, blue = (min(255, max(0, v + round(dice.between(-spread, spread)))) for v in rgb)
    return red, green, blue


def _look(
    dice: Dice, taken: Sequence[Thing], behind: Sequence[Rgb], size: str, tail: float
) -> dict[str, object]:
    shapes = [s for s in SHAPES if all(s != t.shape for t in taken)]
    colours = [
        c for c, rgb in COLOURS.items() if all(distance_of(rgb, other) >= _CONTRAST for other in behind)
    ]
    colour = dice.pick(colours)
    return {
        "shape": dice.weighed(shapes, [(1 + SHAPES.index(s)) ** -tail for s in shapes])
        if tail
        else dice.pick(shapes),
        "colour": colour,
        "texture": dice.pick(TEXTURES),
        "size": size,
        "rgb": _tinted(COLOURS[colour], dice, 10),
        "tilt": dice.between(-16, 16),
        "phase": dice.share(),
    }


def _main_thing(dice: Dice, ground: Rgb, tail: float) -> Thing:
    radius = dice.between(*_RADII["large"])
    x, y = (
        min(1 - radius, max(radius, 0.5 + (dice.below(3) - 1) * dice.between(0.14, 0.2))) for _ in range(2)
    )
    return Thing(**_look(dice, (), (ground,), "large", tail), x=x, y=y, radius=radius)  # type: ignore[arg-type]


def _further_thing(dice: Dice, things: Sequence[Thing], ground: Rgb, tail: float) -> Thing | None:
    main = things[0]
    fate = dice.share()
    if len(things) == 1 and main.shape in _SOLID and fate < 0.5:
        inside = fate < 0.25
        angle = dice.between(0, 2 * math.pi)
        reach = (dice.between(0, 0.12) if inside else dice.between(0.64, 0.72)) * main.radius
        size = "small" if inside else "medium-sized"
        radius = 0.36 * main.radius if inside else dice.between(*_RADII[size])
        look = _look(dice, things, (ground, main.rgb), size, tail)
        x, y = main.x + reach * math.cos(angle), main.y + reach * math.sin(angle)
        return Thing(**look, x=x, y=y, radius=radius)  # type: ignore[arg-type]
    size = dice.pick(SIZES[1:])
    look = _look(dice, things, (ground,), size, tail)
    for _ in range(60):
        radius = dice.between(*_RADII[size])
        x, y = (dice.between(radius + 0.01, 0.99 - radius) for _ in range(2))
        if all(math.hypot(x - t.x, y - t.y) >= t.radius + radius + 0.015 for t in things):
            return Thing(**look, x=x, y=y, radius=radius)  # type: ignore[arg-type]
    return None
