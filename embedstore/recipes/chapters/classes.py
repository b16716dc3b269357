"""What is taken for what, and a bar for each class: of pictures, or of the pixels of pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedstore.recipes.page.content import Block, ClassRow, ClassTable
from embedstore.recipes.page.plots import confusion_plot

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embedstore.documents import Figure
    from embedstore.recipes.page.content import Plot
    from embedstore.shapes import IntArray

MOST_CLASSES, MOST_IN_MATRIX = 60, 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The entries above 0 of a confusion matrix: `counts[k]` of class `own[k]` were called `as_[k]`.

    All `(e,)` int64. Of thousands of classes the whole matrix would not fit.
    """

    own: IntArray
    as_: IntArray
    counts: IntArray
    classes: int

    @classmethod
    def of_rows(cls, labels: IntArray, predicted: IntArray, classes: int) -> Taken:
        """From the class of each row `(n,)` and what it was called `(n,)`."""
        pairs, counts = np.unique(labels * classes + predicted, return_counts=True)
        return cls(own=pairs // classes, as_=pairs % classes, counts=counts, classes=classes)

    @classmethod
    def of_table(cls, table: IntArray) -> Taken:
        """From a matrix `(c, c)`, true classes first."""
        own, as_ = np.nonzero(table)
        return cls(own=own, as_=as_, counts=table[own, as_], classes=len(table))

    @property
    def sizes(self) -> IntArray:
        """Of each class `(c,)`."""
        return self._sums(self.own, self.counts)

    @property
    def mistakes(self) -> IntArray:
        """How often each class was taken for another, or another for it `(c,)`."""
        wrong = self.own != self.as_
        parts = (self._sums(side[wrong], self.counts[wrong]) for side in (self.own, self.as_))
        return sum(parts, np.zeros(self.classes, dtype=np.int64))

    def _sums(self, at: IntArray, counts: IntArray) -> IntArray:
        found = np.zeros(self.classes, dtype=np.int64)
        np.add.at(found, at, counts)
        return found

    def most_often(self) -> dict[int, tuple[int, int]]:
        """Class to the other one it is most often taken for, the lower of equal ones, and how often."""
        wrong = np.flatnonzero(self.own != self.as_)
        order = wrong[np.lexsort((self.as_[wrong], -self.counts[wrong]))]
        own, first = np.unique(self.own[order], return_index=True)
        chosen = order[first]
        found = zip(self.as_[chosen].tolist(), self.counts[chosen].tolist(), strict=True)
        return dict(zip(own.tolist(), found, strict=True))

    def matrix(self, shown: IntArray) -> IntArray:
        """The part of the matrix of some classes `(s, s)`."""
        place = np.full(self.classes, -1)
        place[shown] = np.arange(len(shown))
        inside = (place[self.own] >= 0) & (place[self.as_] >= 0)
        table = np.zeros((len(shown), len(shown)), dtype=np.int64)
        table[place[self.own[inside]], place[self.as_[inside]]] = self.counts[inside]
        return table


def class_blocks(
    per_class: Mapping[str, Figure], labels: Sequence[str], taken: Taken, *, metric: str, of: str = ""
) -> list[Block]:
    """The matrix where it has two classes, and the bars; `of` is what is counted, such as " pixels"."""
    plot = confusion_matrix(labels, taken)
    matrix = [] if plot is None else [Block(kind="plots", title="What is taken for what", value=[plot])]
    return [*matrix, class_bars(per_class, class_facts(labels, taken, of=of), metric=metric)]


def class_bars(
    per_class: Mapping[str, Figure],
    facts: Mapping[str, tuple[str, str | None, str]] | None = None,
    *,
    metric: str,
) -> Block:
    """A bar for each class, the best first; of very many the best and the worst. `facts`: as below."""
    nothing: tuple[str, str | None, str] = ("", None, "")
    rows = []
    for name, figure in sorted(per_class.items(), key=lambda item: -item[1].value):
        size, taken_for, times = (facts or {}).get(name, nothing)
        rows.append(ClassRow(name=name, figure=figure, size=size, taken_for=taken_for, times=times))
    lead = "The bar is the figure, the line on it its 95 % interval."
    if len(rows) > MOST_CLASSES:
        lead += f" The best and the worst of {len(rows):,} classes."
        rows = rows[: MOST_CLASSES // 2] + rows[-MOST_CLASSES // 2 :]
    table = ClassTable(metric=metric, rows=tuple(rows), taken=facts is not None)
    return Block(kind="classes", title="Each class", lead=lead, value=table)


def class_facts(
    labels: Sequence[str], taken: Taken, *, of: str = ""
) -> dict[str, tuple[str, str | None, str]]:
    """Class to its size in words, the class it is most often taken for, and how often, in words."""
    sizes, most = taken.sizes.tolist(), taken.most_often()
    found: dict[str, tuple[str, str | None, str]] = {}
    for c, label in enumerate(labels):
        size = f"{sizes[c]:,}"
        other = most.get(c)
        named = (None, "") if other is None else (labels[other[0]], f"{other[1]:,} of {size}{of}")
        found[label] = (size + of, *named)
    return found


def confusion_matrix(labels: Sequence[str], taken: Taken) -> Plot | None:
    """Shares of each class; of many classes those with the most mistakes, none where there are no two."""
    shown = np.union1d(taken.own, taken.as_)
    title = "Share of each class in % (down: what it is, across: what it is called)"
    if len(shown) > MOST_IN_MATRIX:
        shown = np.sort(np.argsort(-taken.mistakes, kind="stable")[:MOST_IN_MATRIX])
        title += f": the {MOST_IN_MATRIX} of {taken.classes:,} classes with the most mistakes"
    if len(shown) < 2:
        return None
    names = [labels[c] for c in shown]
    return confusion_plot(taken.matrix(shown), names, sizes=taken.sizes[shown], title=title)
