"""Spanish: adjectives agree in gender and follow the noun."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedstore.sources.scenes.tongues.base import Tongue

if TYPE_CHECKING:
    from embedstore.sources.scenes.claims import Noun

_SHAPES = {
    "circle": ("círculo", "m"),
    "square": ("cuadrado", "m"),
    "triangle": ("triángulo", "m"),
    "star": ("estrella", "f"),
    "heart": ("corazón", "m"),
    "cross": ("cruz", "f"),
    "ring": ("anillo", "m"),
    "moon": ("luna", "f"),
    "hexagon": ("hexágono", "m"),
    "diamond": ("rombo", "m"),
    "arrow": ("flecha", "f"),
    "flower": ("flor", "f"),
}
_WORDS = {
    "large": ("grande", "grande"),
    "medium-sized": ("mediano", "mediana"),
    "small": ("pequeño", "pequeña"),
    "red": ("rojo", "roja"),
    "orange": ("naranja", "naranja"),
    "yellow": ("amarillo", "amarilla"),
    "green": ("verde", "verde"),
    "blue": ("azul", "azul"),
    "purple": ("morado", "morada"),
    "pink": ("rosa", "rosa"),
    "brown": ("marrón", "marrón"),
    "black": ("negro", "negra"),
    "white": ("blanco", "blanca"),
    "plain": ("liso", "lisa"),
    "striped": ("a rayas", "a rayas"),
    "dotted": ("de lunares", "de lunares"),
    "checked": ("a cuadros", "a cuadros"),
    "outlined": ("con borde", "con borde"),
}
_GROUNDS = {
    "grey": "gris",
    "beige": "beige",
    "light blue": "azul claro",
    "light green": "verde claro",
    "lavender": "lavanda",
    "dark blue": "azul oscuro",
    "dark green": "verde oscuro",
    "plain": "liso",
    "fading": "degradado",
    "grainy": "granulado",
    "tiled": "cuadriculado",
    "cloudy": "nuboso",
}


def _noun(noun: Noun, _: str) -> str:
    name, gender = _SHAPES[noun.shape]
    feminine = gender == "f"
    said = [_WORDS[w][feminine] for w in (noun.colour, noun.size, noun.texture) if w is not None]
    return " ".join(["una" if feminine else "un", name, *said])


def _ground(colour: str, pattern: str | None) -> str:
    return f"sobre un fondo {_GROUNDS[colour]}{f' {_GROUNDS[pattern]}' if pattern else ''}"


SPANISH = Tongue(
    frames=(("{}", ""), ("la imagen muestra {}", ""), ("se ve {}", ""), ("aquí hay {}", "")),
    relations={
        "left of": ("a la izquierda de",),
        "right of": ("a la derecha de",),
        "above": ("encima de", "por encima de"),
        "below": ("debajo de", "por debajo de"),
        "inside": ("dentro de", "en el interior de"),
        "in front of": ("delante de",),
    },
    places={
        "upper left": "en la parte superior izquierda de la imagen",
        "upper middle": "en la parte superior de la imagen",
        "upper right": "en la parte superior derecha de la imagen",
        "middle left": "a la izquierda de la imagen",
        "centre": "en el centro de la imagen",
        "middle right": "a la derecha de la imagen",
        "lower left": "en la parte inferior izquierda de la imagen",
        "lower middle": "en la parte inferior de la imagen",
        "lower right": "en la parte inferior derecha de la imagen",
    },
    conjunction="y",
    noun=_noun,
    ground=_ground,
)
