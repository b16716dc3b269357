"""German: endings by gender and case, so every adjective agrees."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedstore.sources.scenes.tongues.base import Tongue

if TYPE_CHECKING:
    from embedstore.sources.scenes.claims import Noun

_SHAPES = {
    "circle": ("Kreis", "m"),
    "square": ("Quadrat", "n"),
    "triangle": ("Dreieck", "n"),
    "star": ("Stern", "m"),
    "heart": ("Herz", "n"),
    "cross": ("Kreuz", "n"),
    "ring": ("Ring", "m"),
    "moon": ("Mond", "m"),
    "hexagon": ("Sechseck", "n"),
    "diamond": ("Raute", "f"),
    "arrow": ("Pfeil", "m"),
    "flower": ("Blume", "f"),
}
_WORDS = {
    "large": "groß",
    "medium-sized": "mittelgroß",
    "small": "klein",
    "red": "rot",
    "orange": "orangefarben",
    "yellow": "gelb",
    "green": "grün",
    "blue": "blau",
    "purple": "violett",
    "pink": "rosafarben",
    "brown": "braun",
    "black": "schwarz",
    "white": "weiß",
    "plain": "einfarbig",
    "striped": "gestreift",
    "dotted": "gepunktet",
    "checked": "kariert",
    "outlined": "umrandet",
    "grey": "grau",
    "beige": "beigefarben",
    "light blue": "hellblau",
    "light green": "hellgrün",
    "lavender": "fliederfarben",
    "dark blue": "dunkelblau",
    "dark green": "dunkelgrün",
    "fading": "schattiert",
    "grainy": "körnig",
    "tiled": "gekachelt",
    "cloudy": "wolkig",
}
_ENDINGS = {
    ("nominative", "m"): ("ein", "er"),
    ("nominative", "f"): ("eine", "e"),
    ("nominative", "n"): ("ein", "es"),
    ("accusative", "m"): ("einen", "en"),
    ("accusative", "f"): ("eine", "e"),
    ("accusative", "n"): ("ein", "es"),
    ("dative", "m"): ("einem", "en"),
    ("dative", "f"): ("einer", "en"),
    ("dative", "n"): ("einem", "en"),
}


def _noun(noun: Noun, case: str) -> str:
    name, gender = _SHAPES[noun.shape]
    article, ending = _ENDINGS[case, gender]
    said = [_WORDS[w] + ending for w in (noun.size, noun.colour, noun.texture) if w is not None]
    return " ".join([article, *said, name])


def _ground(colour: str, pattern: str | None) -> str:
    said = [_WORDS[w] + "em" for w in (pattern, colour) if w is not None]
    return f"vor {' '.join(said)} Hintergrund"


GERMAN = Tongue(
    frames=(
        ("{}", "nominative"),
        ("das Bild zeigt {}", "accusative"),
        ("man sieht {}", "accusative"),
        ("hier ist {}", "nominative"),
    ),
    relations={
        "left of": ("links von",),
        "right of": ("rechts von",),
        "above": ("über", "oberhalb von"),
        "below": ("unter", "unterhalb von"),
        "inside": ("in",),
        "in front of": ("vor",),
    },
    places={
        "upper left": "oben links im Bild",
        "upper middle": "oben im Bild",
        "upper right": "oben rechts im Bild",
        "middle left": "links im Bild",
        "centre": "in der Mitte des Bildes",
        "middle right": "rechts im Bild",
        "lower left": "unten links im Bild",
        "lower middle": "unten im Bild",
        "lower right": "unten rechts im Bild",
    },
    conjunction="und",
    noun=_noun,
    ground=_ground,
)
