"""`scenes:COUNT?seed=0&size=224`: the procedural data set as a source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from embedstore.errors import UsageError
from embedstore.sources.base import Caption, Sample
from embedstore.sources.scenes.claims import false_claims, true_claims
from embedstore.sources.scenes.describe import long_description
from embedstore.sources.scenes.draw import draw_mask, draw_picture
from embedstore.sources.scenes.tongues import TONGUES
from embedstore.sources.scenes.world import SHAPES, Dice, sample_scene, split_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL.Image import Image

    from embedstore.shapes import ByteArray
    from embedstore.sources.scenes.world import Scene

MIN_SIZE, MAX_SIZE = 32, 1024
MAX_COUNT = 10_000_000
REVISION = 1
"""Rises whenever the same options would give other pixels or texts."""


@dataclass(frozen=True, slots=True)
class ScenePicture:
    """A scene's picture, drawn when opened."""

    seed: int
    index: int
    size: int

    @property
    def ref(self) -> str:
        """For example `scenes/000012`."""
        return f"scenes/{self.index:06d}"

    @property
    def nbytes(self) -> int | None:
        """None: there is no encoded picture."""
        return None

    def open(self) -> Image:
        """The picture, RGB, `size` × `size` pixels."""
        return draw_picture(sample_scene(self.seed, self.index), self.size)


@dataclass(frozen=True, slots=True)
class SceneMask:
    """A scene's class map, drawn when opened."""

    seed: int
    index: int
    size: int

    def open(self) -> ByteArray:
        """Class ids `(size, size)` uint8; 0 is the background, the rest index `ScenesSource.classes`."""
        return draw_mask(sample_scene(self.seed, self.index), self.size)


@dataclass(frozen=True, slots=True)
class ScenesSource:
    """`count` scenes of the endless data set `seed`; sample i is a pure function of (seed, i, size).

    `size` (pixels a side) changes the sharpness of a picture, never what is in it, so texts, labels and
    splits are the same at every size, and a larger `count` only adds samples. A split is decided by a hash
    of (seed, i): about 80 % `train`, 10 % `val`, 10 % `test`. The label is the shape of the main object.
    """

    count: int
    seed: int = 0
    size: int = 224

    shuffled = True

    def __post_init__(self) -> None:
        _check("number of scenes", self.count, 1, MAX_COUNT)
        _check("seed", self.seed, 0, 2**63 - 1)
        _check("size", self.size, MIN_SIZE, MAX_SIZE)

    @classmethod
    def from_spec(cls, rest: str) -> ScenesSource:
        """Read what follows `scenes:`, for example `500?seed=0&size=224`.

        Raises `UsageError` for an unknown option, an option given twice, or a number out of range.
        """
        head, _, query = rest.partition("?")
        options = {"count": _number("number of scenes", head, rest)}
        for name, value in parse_qsl(query, keep_blank_values=True, separator="&"):
            if name not in {"seed", "size"}:
                raise UsageError("unknown option", where=f"scenes:{rest}", found=name, allowed="seed, size")
            if name in options:
                raise UsageError("option given twice", where=f"scenes:{rest}", found=name, allowed="once")
            options[name] = _number(name, value, rest)
        return cls(**options)

    @property
    def identity(self) -> Mapping[str, str | int | float | bool]:
        """Kind and options, and the revision of the procedure itself."""
        return {
            "kind": "scenes",
            "count": self.count,
            "seed": self.seed,
            "size": self.size,
            "revision": REVISION,
        }

    @property
    def classes(self) -> tuple[str, ...]:
        """`background`, then the shapes; the position is the id used in masks."""
        return ("background", *SHAPES)

    @property
    def dropped(self) -> Mapping[str, int]:
        """Nothing is ever left out."""
        return {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(index)
        scene = sample_scene(self.seed, index)
        return Sample(
            id=f"scene-{index:06d}",
            picture=ScenePicture(self.seed, index, self.size),
            captions=captions_of(scene, Dice("words", self.seed, index)),
            label=scene.main.shape,
            split=split_of(self.seed, index),
            mask=SceneMask(self.seed, index, self.size),
        )


def captions_of(scene: Scene, dice: Dice) -> tuple[Caption, ...]:
    """All texts of a scene.

    Role `caption`: three or four in English, two each in German, French and Spanish. Role `long`: one. Role
    `negative`: one for each of `attribute`, `object` and `relation`, and where two things differ in colour a
    second `attribute` that swaps their colours; each is a caption with one part changed, and false.
    """
    claims = true_claims(scene, dice)
    english = TONGUES["en"]
    texts = [Caption(text=english.sentence(claim)) for claim in claims]
    for language in ("de", "fr", "es"):
        start = dice.below(len(claims))
        texts += [
            Caption(text=TONGUES[language].sentence(claim), language=language)
            for claim in (claims[start], claims[start - 1])
        ]
    texts.append(Caption(text=long_description(scene), role="long"))
    texts += [
        Caption(text=english.sentence(claim), role="negative", category=category)
        for category, claim in false_claims(scene, claims, dice)
    ]
    return tuple(texts)


def _number(name: str, text: str, rest: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise UsageError(
            f"the {name} is not a whole number",
            where=f"scenes:{rest}",
            found=repr(text),
            allowed="digits only",
            todo="write for example scenes:500?seed=0&size=224",
        )
    return int(text)


def _check(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise UsageError(
            f"the {name} is out of range", where="scenes", found=value, allowed=f"{low} to {high}"
        )
