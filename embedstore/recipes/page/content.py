"""What may stand on a page, as values: the templates and the plots know nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from embedstore.documents import NOT_SHARES

if TYPE_CHECKING:
    from embedstore.documents import BenchReport, Figure

Kind: TypeAlias = Literal[
    "figures", "grids", "plots", "texts_asked", "images_asked", "classes", "cards", "masks", "rates", "facts"
]

# Ranks, and correlations of what should go against each other.
_NUMBERS = NOT_SHARES | {"pearson", "spearman"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One figure with its name and what random scores would give. `group`: a direction, or a part of it."""

    group: str
    metric: str
    figure: Figure
    chance: float | None

    @property
    def direction(self) -> str:
        """The group, or what it is a part of."""
        return self.group.partition("/")[0]

    @property
    def part(self) -> str:
        """Which part of its direction the group is; empty: all of it."""
        return self.group.partition("/")[2]

    @property
    def is_share(self) -> bool:
        """Whether the figure is a fraction of 1; the others are better where they are lower."""
        return self.metric not in _NUMBERS

    @property
    def against_chance(self) -> Literal["better", "worse", "unclear"] | None:
        """On which side of chance the whole interval is; unclear: on both, none: chance is unknown."""
        if self.chance is None:
            return None
        if self.figure.low <= self.chance <= self.figure.high:
            return "unclear"
        return "better" if (self.figure.low > self.chance) is self.is_share else "worse"


@dataclass(frozen=True, slots=True, kw_only=True)
class GridRow:
    """One part of a direction with its figure of each metric, none where it has none."""

    name: str
    cells: tuple[Measure | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The parts of one direction."""

    direction: str
    metrics: tuple[str, ...]
    rows: tuple[GridRow, ...]

    @property
    def chance(self) -> tuple[tuple[Measure, Measure] | None, ...]:
        """Of each metric the figures with the lowest and the highest chance, where chance is known."""
        columns = zip(*(row.cells for row in self.rows), strict=True)
        known = [[m for m in column if m is not None and m.chance is not None] for column in columns]
        return tuple((min(c, key=_chance), max(c, key=_chance)) if c else None for c in known)


def _chance(measure: Measure) -> float:
    return measure.chance or 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """A figure that stands on top, and the task it is of."""

    task: str
    measure: Measure


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A drawing, what to see in it, and the words that say the same to those who cannot see it."""

    svg: str
    title: str
    alt: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One retrieved row: a picture (JPEG bytes, none where no thumbnail is kept) with a text, or a text."""

    rank: int
    text: str
    right: bool
    score: float
    jpeg: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A text or a picture with a text, what was retrieved for it, and the rank of the right one, from 1.

    The answers are the nearest, and after them the right one where it is not among these.
    """

    text: str
    answers: tuple[Answer, ...]
    rank: int
    jpeg: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRow:
    """The figure of one class, how large it is, and the class it is most often taken for, if there is one."""

    name: str
    figure: Figure
    size: str
    taken_for: str | None
    times: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassTable:
    """The classes with their figure `metric`; `taken`: whether it is known what each is taken for."""

    metric: str
    rows: tuple[ClassRow, ...]
    taken: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RateRow:
    """A rate in words, and which share of its limit it is, where it has one."""

    what: str
    value: str
    spread: str
    share: float | None
    limit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A picture (JPEG or PNG bytes, none where none is kept), words in its place, and lines below it."""

    picture: bytes | None
    alt: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Masked:
    """Named panels (JPEG bytes) of one picture, words on it, and what the colours (`#rrggbb`) mean."""

    panels: tuple[tuple[str, bytes], ...]
    words: str
    colours: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A line of the settings."""

    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A group of settings under one title."""

    title: str
    facts: tuple[Fact, ...]

    @classmethod
    def of(cls, title: str, **facts: object) -> Section:
        """From names with underscores; what is None is left out."""
        shown = ((name.replace("_", " "), value) for name, value in facts.items() if value is not None)
        return cls(title=title, facts=tuple(Fact(name=name, value=str(value)) for name, value in shown))


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Something to look at in a chapter. `kind` names the macro of `pieces.html.j2` that shows `value`."""

    kind: Kind
    value: Any
    title: str | None = None
    lead: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """One task, or another thing that a page tells; `notes`: what a reader must know before the figures."""

    title: str
    lead: str
    blocks: tuple[Block, ...]
    notes: tuple[str, ...] = ()


def measures_of(report: BenchReport) -> tuple[Measure, ...]:
    """All figures of a report in its order."""
    return tuple(
        Measure(group=group, metric=metric, figure=figure, chance=report.chance.get(group, {}).get(metric))
        for group, figures in report.metrics.items()
        for metric, figure in figures.items()
    )
