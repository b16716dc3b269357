"""One dense English description of a whole scene: at least 100 words, every sentence true."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedstore.sources.scenes.claims import Noun, best_relation
from embedstore.sources.scenes.tongues.english import ENGLISH, english_ground, english_noun
from embedstore.sources.scenes.world import brightened, place_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedstore.sources.scenes.world import Scene, Thing

_COUNTS = {1: "a single shape", 2: "two shapes", 3: "three shapes", 4: "four shapes"}
_OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
_GROUNDS = {
    "plain": "The background is one even {} from edge to edge, without lines or clouds.",
    "fading": "The {} of the background fades evenly from a lighter side to a darker side.",
    "grainy": "The {} background is covered with fine grain, like rough paper or sand.",
    "tiled": "Thin darker lines divide the {} background into a grid of square tiles.",
    "cloudy": "Soft lighter and darker clouds drift over the {} background.",
}
_CORNERS = {(0, 0): "upper left", (1, 0): "upper right", (0, 1): "lower left", (1, 1): "lower right"}


def long_description(scene: Scene) -> str:
    """Background, light, every thing with its surface, place, size and relations, and what is empty."""
    return " ".join(_sentences(scene))


def _sentences(scene: Scene) -> Iterator[str]:
    main, frames = scene.main, ENGLISH
    count = len(scene.things)
    yield f"A computer-drawn picture with {_COUNTS[count]} {english_ground(scene.ground_colour, None)}."
    yield _GROUNDS[scene.ground_pattern].format(scene.ground_colour)
    yield _light(scene)
    yield f"The main object is {english_noun(_noun(main))} {frames.places[place_of(main)]}."
    yield _surface(main)
    share = "two fifths" if main.radius < 0.24 else "half"
    rank = "the only thing" if count == 1 else "clearly the largest thing"
    yield f"At its longest the {main.shape} measures roughly {share} of the side of the picture."
    yield f"It is {rank} to be seen."
    if main.shape not in {"circle", "ring"}:
        yield _stance(main)
    for k, thing in enumerate(scene.things[1:], start=1):
        noun, relation = english_noun(_noun(thing)), best_relation(scene, k, 0)
        where = (
            f"{frames.relations[relation][-1]} the {main.shape}"
            if relation
            else frames.places[place_of(thing)]
        )
        yield f"There is also {noun} {where}."
        yield _surface(thing)
    for k in range(2, count):
        relation = best_relation(scene, k, k - 1)
        if relation is not None:
            one, other = scene.things[k].shape, scene.things[k - 1].shape
            yield f"The {one} is {frames.relations[relation][-1]} the {other}."
    yield from _emptiness(scene)
    if count == 1:
        yield f"Nothing else is there: the {main.shape} stands alone, and only the background surrounds it."


def _noun(thing: Thing) -> Noun:
    return Noun(shape=thing.shape, colour=thing.colour, texture=thing.texture, size=thing.size)


def _light(scene: Scene) -> str:
    edges = "the edges look slightly blurred" if scene.blur else "the edges are sharp"
    if scene.light == "even":
        return f"The light is even over the whole picture, and {edges}."
    dark = _OPPOSITE[scene.light]
    return f"Light falls in from the {scene.light}, so that the {dark} of the picture is darker, and {edges}."


def _surface(thing: Thing) -> str:
    tone = "lighter" if brightened(thing.rgb) else "darker"
    body = f"{thing.colour} {thing.shape}"
    match thing.texture:
        case "plain":
            return f"The surface of the {body} is plain, one even {thing.colour} without any pattern."
        case "striped":
            return f"Parallel {tone} stripes run across the {body}."
        case "dotted":
            return f"Rows of round {tone} dots cover the {body}."
        case "checked":
            return f"The {body} is checked like a chessboard, {tone} fields between {thing.colour} ones."
        case _:
            rim = "white" if brightened(thing.rgb) else "black"
            return f"A thick {rim} outline runs around the {body}."


def _stance(thing: Thing) -> str:
    if abs(thing.tilt) < 4:
        return f"The {thing.shape} is hardly turned at all."
    way = "clockwise" if thing.tilt > 0 else "anticlockwise"
    return f"The {thing.shape} is turned a little {way}."


def _emptiness(scene: Scene) -> Iterator[str]:
    free = [
        name
        for (column, row), name in _CORNERS.items()
        if all(abs(t.x - column) > 0.3 + t.radius or abs(t.y - row) > 0.3 + t.radius for t in scene.things)
    ]
    if len(free) == 1:
        yield f"The {free[0]} corner of the picture is empty."
    elif free:
        yield f"The {', '.join(free[:-1])} and {free[-1]} corners of the picture are empty."
