"""English: the language of the long descriptions and of the altered captions too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedstore.sources.scenes.tongues.base import Tongue

if TYPE_CHECKING:
    from embedstore.sources.scenes.claims import Noun


def english_noun(noun: Noun, article: str = "a") -> str:
    """For example `a large red striped star`; `article` may also be `the`."""
    words = " ".join(w for w in (noun.size, noun.colour, noun.texture, noun.shape) if w is not None)
    if article == "the":
        return f"the {words}"
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def english_ground(colour: str, pattern: str | None) -> str:
    """For example `on a grainy light blue background`."""
    return f"on a {f'{pattern} ' if pattern else ''}{colour} background"


ENGLISH = Tongue(
    frames=(
        ("{}", "a"),
        ("there is {}", "a"),
        ("the picture shows {}", "a"),
        ("one can see {}", "a"),
    ),
    relations={
        "left of": ("left of", "to the left of"),
        "right of": ("right of", "to the right of"),
        "above": ("over", "above"),
        "below": ("under", "below"),
        "inside": ("within", "inside"),
        "in front of": ("in front of", "partly covering"),
    },
    places={
        "upper left": "in the upper left of the picture",
        "upper middle": "at the top of the picture",
        "upper right": "in the upper right of the picture",
        "middle left": "on the left of the picture",
        "centre": "in the centre of the picture",
        "middle right": "on the right of the picture",
        "lower left": "in the lower left of the picture",
        "lower middle": "at the bottom of the picture",
        "lower right": "in the lower right of the picture",
    },
    conjunction="and",
    noun=english_noun,
    ground=english_ground,
)
