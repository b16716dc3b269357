"""What a task gives: the report, and what a page or a comparison needs beside it."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from embedstore.bench.outcomes import Outcomes
    from embedstore.documents import BenchReport

P = ParamSpec("P")
# `(what, done, total)`, of a stage of a task.
Progress: TypeAlias = "Callable[[str, int, int], None]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One task's report, and `found`: the task's own arrays (`Retrieved`, …), if there are more.

    outcomes: group of the report -> what became of each of its rows; groups without are compared by their
    intervals only.
    """

    report: BenchReport
    found: Any = None
    outcomes: Mapping[str, Outcomes] = field(default_factory=dict)


def silent(what: str, done: int, total: int) -> None:
    """Nobody watches."""
    del what, done, total


def report_of(measure: Callable[P, Measured]) -> Callable[P, BenchReport]:
    """The same task for those who want its report only."""

    @functools.wraps(measure)
    def bench(*args: P.args, **options: P.kwargs) -> BenchReport:
        return measure(*args, **options).report

    return bench
