"""What may stand on a page, as values: the templates and the plots know nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedstore.documents import NOT_SHARES

if TYPE_CHECKING:
    from embedstore.documents import BenchReport, Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One figure with its name and what random scores would give."""

    direction: str
    metric: str
    figure: Figure
    chance: float | None

    @property
    def is_share(self) -> bool:
        """Whether the figure is a fraction of 1."""
        return self.metric not in NOT_SHARES

    @property
    def beats_chance(self) -> bool | None:
        """Whether the whole interval is on the better side of chance; none where chance is unknown."""
        if self.chance is None:
            return None
        return self.figure.low > self.chance if self.is_share else self.figure.high < self.chance


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A drawing and the words that say the same to those who cannot see it."""

    svg: str
    title: str
    alt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One retrieved row: a picture (JPEG bytes, none where no thumbnail is kept) with a text, or a text."""

    text: str
    right: bool
    score: float
    jpeg: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A text or a picture with a text, what was retrieved for it, and the rank of the right one, from 1."""

    text: str
    answers: tuple[Answer, ...]
    rank: int
    jpeg: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRow:
    """Recall of one class and, where there is one, the class it is most often taken for."""

    name: str
    figure: Figure
    rows: int
    taken_for: str | None
    times: int


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


def measures_of(report: BenchReport) -> tuple[Measure, ...]:
    """All figures of a report in its order."""
    return tuple(
        Measure(
            direction=direction,
            metric=metric,
            figure=figure,
            chance=report.chance.get(direction, {}).get(metric),
        )
        for direction, figures in report.metrics.items()
        for metric, figure in figures.items()
    )
