"""What can be said about a scene, apart from any language, and whether it is true.

A caption is a `Claim` put into words; an altered caption is the same claim with one part replaced, put into
the same words. So truth is decided here, once, for all languages.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from embedstore.sources.scenes.world import (
    COLOURS,
    PLACES,
    RELATIONS,
    SHAPES,
    TEXTURES,
    Dice,
    place_of,
    relation_fails,
    relation_holds,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from embedstore.sources.scenes.world import Scene, Thing

WORDINGS = 4
_CELLS = {place: cell for cell, place in PLACES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Noun:
    """A thing as a text names it. A scene has each shape once, so the shape says which one is meant."""

    shape: str
    colour: str | None = None
    texture: str | None = None
    size: str | None = None

    def holds(self, scene: Scene) -> bool:
        """Whether the scene has such a thing."""
        thing = thing_named(scene, self.shape)
        return thing is not None and all(
            said is None or said == fact
            for said, fact in (
                (self.colour, thing.colour),
                (self.texture, thing.texture),
                (self.size, thing.size),
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One caption before it is worded. `relation` joins the subject and `others[0]`; without one, a list."""

    subject: Noun
    others: tuple[Noun, ...] = ()
    relation: str | None = None
    place: str | None = None
    """Where the subject is, one of `PLACES`."""
    ground_colour: str | None = None
    ground_pattern: str | None = None
    wording: int = 0
    """Which sentence frame says it, 0 to `WORDINGS` - 1."""

    def holds(self, scene: Scene) -> bool:
        """Whether every part is clearly true."""
        if not all(noun.holds(scene) for noun in (self.subject, *self.others)):
            return False
        one = index_of(scene, self.subject.shape)
        return (
            (self.relation is None or relation_holds(scene, one, self.relation, self._other(scene)))
            and self.place in {None, place_of(scene.things[one])}
            and self.ground_colour in {None, scene.ground_colour}
            and self.ground_pattern in {None, scene.ground_pattern}
        )

    def fails(self, scene: Scene) -> bool:
        """Whether at least one part is clearly false; a doubtful claim neither holds nor fails."""
        if not all(noun.holds(scene) for noun in (self.subject, *self.others)):
            return True
        one = index_of(scene, self.subject.shape)
        return (
            (self.relation is not None and relation_fails(scene, one, self.relation, self._other(scene)))
            or (self.place is not None and _far_apart(self.place, place_of(scene.things[one])))
            or self.ground_colour not in {None, scene.ground_colour}
            or self.ground_pattern not in {None, scene.ground_pattern}
        )

    def _other(self, scene: Scene) -> int:
        return index_of(scene, self.others[0].shape)


def thing_named(scene: Scene, shape: str) -> Thing | None:
    """The thing of this shape, or None."""
    return next((thing for thing in scene.things if thing.shape == shape), None)


def index_of(scene: Scene, shape: str) -> int:
    """Position in `scene.things` of the thing of this shape, which must be there."""
    return next(i for i, thing in enumerate(scene.things) if thing.shape == shape)


def best_relation(scene: Scene, one: int, other: int) -> str | None:
    """The relation that a person would name first, or None when nothing is clear."""
    a, b = scene.things[one], scene.things[other]
    sideways = abs(a.x - b.x) > abs(a.y - b.y)
    order = ("inside", "in front of", *(RELATIONS[:2] if sideways else RELATIONS[2:4]))
    return next((name for name in order if relation_holds(scene, one, name, other)), None)


def true_claims(scene: Scene, dice: Dice) -> list[Claim]:
    """Three or four true claims that differ in what they mention."""
    main, share = scene.main, dice.share
    frames = [dice.below(WORDINGS) for _ in range(4)]
    claims = [
        Claim(
            subject=_noun(main, texture=True, size=share() < 0.5),
            ground_colour=scene.ground_colour,
            wording=frames[0],
        ),
        _relation_claim(scene, dice, frames[1])
        or Claim(subject=_noun(main, size=True), place=place_of(main), wording=frames[1]),
        Claim(
            subject=_noun(main, texture=True, colour=share() < 0.6),
            place=place_of(main) if len(scene.things) > 1 or share() < 0.5 else None,
            ground_colour=scene.ground_colour,
            ground_pattern=scene.ground_pattern,
            wording=frames[2],
        ),
    ]
    if len(scene.things) > 1:
        nouns = [_noun(thing, texture=share() < 0.5, size=share() < 0.3) for thing in scene.things]
        claims.append(Claim(subject=nouns[0], others=tuple(nouns[1:]), wording=frames[3]))
    return claims


def false_claims(scene: Scene, claims: list[Claim], dice: Dice) -> list[tuple[str, Claim]]:
    """For each category one claim that differs from a true one in one part and fails; (category, claim)."""
    makers: tuple[tuple[str, Callable[[Scene, Claim, Dice], Iterator[Claim]]], ...] = (
        ("attribute", _other_attribute),
        ("object", _other_object),
        ("relation", _other_relation),
        ("attribute", _swapped_colours),
    )
    found: list[tuple[str, Claim]] = []
    for category, make in makers:
        start = dice.below(len(claims))
        rotated = claims[start:] + claims[:start]
        options = (false for true in rotated for false in make(scene, true, dice) if false.fails(scene))
        false = next(options, None)
        if false is not None:
            found.append((category, false))
    return found


def _noun(thing: Thing, *, colour: bool = True, texture: bool = False, size: bool = False) -> Noun:
    return Noun(
        shape=thing.shape,
        colour=thing.colour if colour else None,
        texture=thing.texture if texture else None,
        size=thing.size if size else None,
    )


def _relation_claim(scene: Scene, dice: Dice, wording: int) -> Claim | None:
    pairs = [(i, 0) for i in range(1, len(scene.things))] + [(0, i) for i in range(1, len(scene.things))]
    start = dice.below(max(1, len(pairs)))
    for one, other in pairs[start:] + pairs[:start]:
        relation = best_relation(scene, one, other)
        if relation is not None:
            subject, known = (_noun(scene.things[k], size=dice.share() < 0.4) for k in (one, other))
            return Claim(subject=subject, others=(known,), relation=relation, wording=wording)
    return None


def _other_attribute(_: Scene, claim: Claim, dice: Dice) -> Iterator[Claim]:
    noun = claim.subject
    if noun.texture is not None and (noun.colour is None or dice.share() < 0.5):
        texture = dice.pick([t for t in TEXTURES if t != noun.texture])
        yield replace(claim, subject=replace(noun, texture=texture))
    elif noun.colour is not None:
        colour = dice.pick([c for c in COLOURS if c != noun.colour])
        yield replace(claim, subject=replace(noun, colour=colour))


def _other_object(scene: Scene, claim: Claim, dice: Dice) -> Iterator[Claim]:
    absent = [s for s in SHAPES if thing_named(scene, s) is None]
    if claim.others and dice.share() < 0.5:
        changed = replace(claim.others[0], shape=dice.pick(absent))
        yield replace(claim, others=(changed, *claim.others[1:]))
    yield replace(claim, subject=replace(claim.subject, shape=dice.pick(absent)))


def _other_relation(_: Scene, claim: Claim, __: Dice) -> Iterator[Claim]:
    if claim.relation is not None:
        k = RELATIONS.index(claim.relation)
        for name in (RELATIONS[k ^ 1], *RELATIONS):
            if name != claim.relation:
                yield replace(claim, relation=name)
    if claim.place is not None:
        column, row = _CELLS[claim.place]
        yield replace(claim, place=PLACES[-column, -row] if (column, row) != (0, 0) else "upper left")


def _swapped_colours(_: Scene, claim: Claim, __: Dice) -> Iterator[Claim]:
    if claim.others and claim.subject.colour != claim.others[0].colour:
        first, second = claim.subject, claim.others[0]
        yield replace(
            claim,
            subject=replace(first, colour=second.colour),
            others=(replace(second, colour=first.colour), *claim.others[1:]),
        )


def _far_apart(one: str, other: str) -> bool:
    return sum(abs(a - b) for a, b in zip(_CELLS[one], _CELLS[other], strict=True)) >= 2
