"""How a language builds the caption of a claim.

A sentence is a frame, a list of nouns (or two nouns and a relation), a place and a background; the frame
says in which case a language puts its subject.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from embedstore.sources.scenes.claims import Claim, Noun


@dataclass(frozen=True, slots=True, kw_only=True)
class Tongue:
    """How one language builds a caption. A frame has one slot and names the case of what stands in it."""

    frames: tuple[tuple[str, str], ...]
    relations: Mapping[str, tuple[str, ...]]
    """Of each relation its wordings; they end before the article of the second noun."""
    places: Mapping[str, str]
    conjunction: str
    noun: Callable[[Noun, str], str]
    ground: Callable[[str, str | None], str]

    def sentence(self, claim: Claim) -> str:
        """The caption of the claim: one sentence with a capital and a full stop."""
        frame, case = self.frames[claim.wording % len(self.frames)]
        if claim.relation is not None:
            ways = self.relations[claim.relation]
            link = ways[claim.wording % len(ways)]
            gap = "" if link.endswith("'") else " "
            body = f"{self.noun(claim.subject, case)} {link}{gap}{self.noun(claim.others[0], 'dative')}"
        else:
            nouns = [self.noun(noun, case) for noun in (claim.subject, *claim.others)]
            body = nouns[0] if len(nouns) == 1 else f"{', '.join(nouns[:-1])} {self.conjunction} {nouns[-1]}"
        if claim.place is not None:
            body += f" {self.places[claim.place]}"
        if claim.ground_colour is not None:
            comma = "," if claim.place is not None else ""
            body += f"{comma} {self.ground(claim.ground_colour, claim.ground_pattern)}"
        text = frame.format(body)
        return text[0].upper() + text[1:] + "."
