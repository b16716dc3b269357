"""French: adjectives agree in gender; colour and surface follow the noun."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedstore.sources.scenes.tongues.base import Tongue

if TYPE_CHECKING:
    from embedstore.sources.scenes.claims import Noun

_SHAPES = {
    "circle": ("cercle", "m"),
    "square": ("carré", "m"),
    "triangle": ("triangle", "m"),
    "star": ("étoile", "f"),
    "heart": ("cœur", "m"),
    "cross": ("croix", "f"),
    "ring": ("anneau", "m"),
    "moon": ("lune", "f"),
    "hexagon": ("hexagone", "m"),
    "diamond": ("losange", "m"),
    "arrow": ("flèche", "f"),
    "flower": ("fleur", "f"),
}
_WORDS = {
    "red": ("rouge", "rouge"),
    "orange": ("orange", "orange"),
    "yellow": ("jaune", "jaune"),
    "green": ("vert", "verte"),
    "blue": ("bleu", "bleue"),
    "purple": ("violet", "violette"),
    "pink": ("rose", "rose"),
    "brown": ("marron", "marron"),
    "black": ("noir", "noire"),
    "white": ("blanc", "blanche"),
    "plain": ("uni", "unie"),
    "striped": ("rayé", "rayée"),
    "dotted": ("à pois", "à pois"),
    "checked": ("à carreaux", "à carreaux"),
    "outlined": ("au contour marqué", "au contour marqué"),
}
_GROUNDS = {
    "grey": "gris",
    "beige": "beige",
    "light blue": "bleu clair",
    "light green": "vert clair",
    "lavender": "lavande",
    "dark blue": "bleu foncé",
    "dark green": "vert foncé",
    "plain": "uni",
    "fading": "dégradé",
    "grainy": "granuleux",
    "tiled": "quadrillé",
    "cloudy": "nuageux",
}


def _noun(noun: Noun, _: str) -> str:
    name, gender = _SHAPES[noun.shape]
    feminine = gender == "f"
    size = {"large": ("grand", "grande"), "small": ("petit", "petite")}.get(noun.size or "")
    said = ["une" if feminine else "un", *([size[feminine]] if size else []), name]
    said += [_WORDS[w][feminine] for w in (noun.colour, noun.texture) if w is not None]
    return " ".join(said + (["de taille moyenne"] if noun.size == "medium-sized" else []))


def _ground(colour: str, pattern: str | None) -> str:
    return f"sur un fond {_GROUNDS[colour]}{f' {_GROUNDS[pattern]}' if pattern else ''}"


FRENCH = Tongue(
    frames=(("{}", ""), ("l'image montre {}", ""), ("on voit {}", ""), ("voici {}", "")),
    relations={
        "left of": ("à gauche d'",),
        "right of": ("à droite d'",),
        "above": ("au-dessus d'",),
        "below": ("au-dessous d'", "en dessous d'"),
        "inside": ("dans", "à l'intérieur d'"),
        "in front of": ("devant",),
    },
    places={
        "upper left": "en haut à gauche de l'image",
        "upper middle": "en haut de l'image",
        "upper right": "en haut à droite de l'image",
        "middle left": "à gauche de l'image",
        "centre": "au centre de l'image",
        "middle right": "à droite de l'image",
        "lower left": "en bas à gauche de l'image",
        "lower middle": "en bas de l'image",
        "lower right": "en bas à droite de l'image",
    },
    conjunction="et",
    noun=_noun,
    ground=_ground,
)
