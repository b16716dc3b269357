"""`scenes:COUNT?seed=0&size=224&tail=0`: the procedural data set as a source."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
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
MAX_TAIL = 4
MAX_CAPTIONS = 3
"""Every scene has so many in English."""
OPTIONS = ("seed", "size", "tail", "captions")
REVISION = 1
"""Rises whenever the same options would give other pixels or texts."""


@dataclass(frozen=True, slots=True)
class ScenePicture:
    """A scene's picture, drawn when opened."""

    seed: int
    index: int
    size: int
    tail: float = 0.0

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
        return draw_picture(sample_scene(self.seed, self.index, tail=self.tail), self.size)


@dataclass(frozen=True, slots=True)
class SceneMask:
    """A scene's class map, drawn when opened."""

    seed: int
    index: int
    size: int
    tail: float = 0.0

    def open(self) -> ByteArray:
        """Class ids `(size, size)` uint8; 0 is the background, the rest index `ScenesSource.classes`."""
        return draw_mask(sample_scene(self.seed, self.index, tail=self.tail), self.size)


@dataclass(frozen=True, slots=True)
class ScenesSource:
    """`count` scenes of the endless data set `seed`; sample i is a pure function of i and the options.

    `size` (pixels a side) changes the sharpness of a picture, never what is in it, so texts, labels and
    splits are the same at every size, and a larger `count` only adds samples. A split is decided by a hash
    of (seed, i): about 80 % `train`, 10 % `val`, 10 % `test`. The label is the shape of the main object.
    `tail`: the k-th shape is drawn with a weight of k^-tail; 0: all equally often. `captions`: that
    many English captions a scene, drawn from its own, and no other text, as pictures of the web have; none:
    all its texts.
    """

    count: int
    seed: int = 0
    size: int = 224
    tail: float = 0.0
    captions: int | None = None

    shuffled = True

    def __post_init__(self) -> None:
        _check("number of scenes", self.count, 1, MAX_COUNT)
        _check("seed", self.seed, 0, 2**63 - 1)
        _check("size", self.size, MIN_SIZE, MAX_SIZE)
        _check("tail", self.tail, 0, MAX_TAIL)
        if self.captions is not None:
            _check("number of captions", self.captions, 1, MAX_CAPTIONS)

    @classmethod
    def from_spec(cls, rest: str) -> ScenesSource:
        """Read what follows `scenes:`, for example `500?seed=0&size=224`.

        Raises `UsageError` for an unknown option, an option given twice, or a number out of range.
        """
        head, _, query = rest.partition("?")
        options: dict[str, Any] = {"count": _number("number of scenes", head, rest)}
        for name, value in parse_qsl(query, keep_blank_values=True, separator="&"):
            if name not in OPTIONS:
                raise UsageError(
                    "unknown option", where=f"scenes:{rest}", found=name, allowed=", ".join(OPTIONS)
                )
            if name in options:
                raise UsageError("option given twice", where=f"scenes:{rest}", found=name, allowed="once")
            options[name] = (_decimal if name == "tail" else _number)(name, value, rest)
        return cls(**options)

    @property
    def identity(self) -> Mapping[str, str | int | float | bool]:
        """Kind and options, and the revision of the procedure; what is not set stands in no identity."""
        later = {"tail": self.tail or None, "captions": self.captions}
        return {
            "kind": "scenes",
            "count": self.count,
            "seed": self.seed,
            "size": self.size,
            **{name: value for name, value in later.items() if value is not None},
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
        scene = sample_scene(self.seed, index, tail=self.tail)
        texts = captions_of(scene, Dice("words", self.seed, index))
        if self.captions is not None:
            texts = _drawn(texts, self.captions, Dice("which captions", self.seed, index))
        return Sample(
            id=f"scene-{index:06d}",
            picture=ScenePicture(self.seed, index, self.size, self.tail),
            captions=texts,
            label=scene.main.shape,
            split=split_of(self.seed, index),
            mask=SceneMask(self.seed, index, self.size, self.tail),
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


def _drawn(texts: tuple[Caption, ...], count: int, dice: Dice) -> tuple[Caption, ...]:
    """`count` of the English captions, in turn from one that is drawn."""
    english = [text for text in texts if (text.role, text.language) == ("caption", "en")]
    start = dice.below(len(english))
    return tuple((english[start:] + english[:start])[:count])


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


def _decimal(name: str, text: str, rest: str) -> float:
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,9})?", text):
        raise UsageError(
            f"the {name} is not a decimal number",
            where=f"scenes:{rest}",
            found=repr(text),
            allowed=f"0 to {MAX_TAIL}, such as 1.2",
        )
    return float(text)


def _check(name: str, value: float, low: int, high: int) -> None:
    if not low <= value <= high:
        raise UsageError(
            f"the {name} is out of range", where="scenes", found=value, allowed=f"{low} to {high}"
        )
