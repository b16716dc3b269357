"""The verb `curate leaks`: rows that are nearly in a test set, and the rows without them as a subset."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from embedstore.curate.meant import feature_parent, meant_rows, subset_parent
from embedstore.curate.operands import refuse_empty
from embedstore.curate.references import other_store, same_store
from embedstore.curate.vectors import BLOCK, pooled_feature, unit_blocks
from embedstore.errors import UsageError
from embedstore.index.approximate import SAMPLE_QUERIES, Index
from embedstore.index.clusters import sample_places
from embedstore.store import Store, create_subset, open_store
from embedstore.store.choosing import choose_rows
from embedstore.store.ids import ids_at
from embedstore.store.subsets.writing import refuse_subset

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from os import PathLike

    from embedstore.curate.references import Reference
    from embedstore.shapes import FloatArray, IntArray
    from embedstore.store import Feature, Subset
    from embedstore.store.selection import Bools

COSINE = 0.95
NEIGHBOURS = 8
PAIRS = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("other_id", pa.string()),
        pa.field("cosine", pa.float64()),
        pa.field("set", pa.string()),
        pa.field("row", pa.int64()),
        pa.field("other_row", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLeaks:
    """One test set: its rows that were compared, our rows that leak from it, and its rows that are listed.

    `recall`: share of nearest rows that an approximate index finds, on a sample; none where it is exact.
    """

    name: str
    rows: int
    leaks: int
    hit: int
    recall: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaks:
    """The cleaned subset, the pairs (columns as in `PAIRS`), and the figures of each set.

    Pairs stand by falling cosine, then by row, set and other row.
    """

    subset: Subset
    pairs: pa.Table
    sets: tuple[SetLeaks, ...]


def find_leaks(
    store: Store | str | PathLike[str],
    name: str,
    others: Sequence[str | PathLike[str]] = (),
    *,
    against: Sequence[str] = (),
    feature: str | None = None,
    cosine: float = COSINE,
    rows: str | None = None,
    split: str | None = None,
    their_split: str | None = None,
    their_rows: str | None = None,
    neighbours: int = NEIGHBOURS,
    index: str = "exact",
    seed: int = 0,
    device: str = "cpu",
    memory_mb: int = 4096,
    overwrite: bool = False,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Leaks:
    """The rows whose nearest row in no test set has a cosine above `cosine`, as the subset `name`.

    Test sets: each store of `others`, narrowed by `their_split` and `their_rows`, with a feature of the same
    card; and each of `against`, a subset or a split of the store itself, whose rows are then no rows of ours.
    A leak is dropped with the id of its nearest row as twin, its cosine, and the set as parent; the score of
    a kept row is the cosine of its nearest. Of every leak the `neighbours` nearest rows above `cosine` in
    each set are listed. An `index` other than exact is approximate, one a set; its recall is measured.
    Rows that cannot be compared are dropped with the reason. Raises `UsageError`, `MismatchError` for other
    cards, `StoreError` for unknown names.
    """
    opened = store if isinstance(store, Store) else open_store(store)
    refuse_subset(opened, name, overwrite=overwrite)
    report = on_progress or (lambda *_: None)
    if not -1 <= cosine < 1 or neighbours < 1:
        raise UsageError(
            "no such cosine" if neighbours > 0 else "at least one neighbour",
            found=cosine if neighbours > 0 else neighbours,
            allowed="-1 to 1, below 1" if neighbours > 0 else "1 or more",
        )
    source = pooled_feature(opened, feature)
    chosen = None if rows is None else choose_rows(opened, rows)
    mine = meant_rows(opened, source.table, split=split, chosen=chosen)
    sets = [same_store(opened, source, each) for each in dict.fromkeys(against)]
    inside = np.concatenate([np.empty(0, np.int64), *(each.rows for each in sets)])
    sets += [other_store(opened, source, each, split=their_split, rows=their_rows) for each in others]
    _refuse_sets([each.name for each in sets])
    ours = np.setdiff1d(mine, inside)
    if not len(ours):
        raise UsageError("every row is in a test set", found=", ".join(each.name for each in sets))
    looked = [_Set(each, index, seed, device, memory_mb) for each in sets]
    near = _nearest(source, ours, looked, cosine, report)
    best = near.best
    leaks = best > cosine
    refuse_empty(near.rows[~leaks], f"{int(leaks.sum())} of {len(ours)} rows are leaks")
    lines = _lines(source, near, looked, neighbours)
    figures = tuple(_figures(each, near, lines, k) for k, each in enumerate(looked))
    pairs = _pairs(opened, source, lines, looked)
    subset = create_subset(
        opened,
        name,
        {"row": near.rows[~leaks], "score": pa.array(best[~leaks], mask=~np.isfinite(best[~leaks]))},
        table=source.table,
        dropped=_dropped(lines, pairs, near.unusable),
        verb="leaks",
        settings={
            "cosine": cosine,
            "feature": source.name,
            "against": tuple(each.name for each in sets),
            "index": index,
            "index_recall": tuple(f.recall for f in figures if f.recall is not None),
            "neighbours": neighbours,
            "seed": seed,
            "split": split,
            "rows": None if chosen is None else chosen.name,
        },
        parents=(
            feature_parent(source),
            *subset_parent(opened, chosen),
            *(parent for each in sets for parent in each.parents),
        ),
        counts={
            "considered": len(ours),
            "in a test set": len(mine) - len(ours),
            "leaks": int(leaks.sum()),
            **Counter(near.unusable.values()),
            **{f"leaks from {figure.name}": figure.leaks for figure in figures},
        },
        overwrite=overwrite,
    )
    return Leaks(subset=subset, pairs=_ranked(pairs), sets=figures)


class _Set:
    """A test set that can be searched."""

    def __init__(self, reference: Reference, kind: str, seed: int, device: str, memory_mb: int) -> None:
        read = reference.read(memory_mb)
        self.reference, self.rows, self.seed = reference, read.rows, seed
        self.index = Index(read.vectors, kind, seed=seed, device=device)
        self.recall: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Near:
    """Rows that were compared `(n,)`, the cosine of the nearest of each set `(sets, n)`, and the limit."""

    rows: IntArray
    scores: FloatArray
    cosine: float
    unusable: dict[int, str]

    @property
    def best(self) -> FloatArray:
        """The cosine of the nearest row of all sets `(n,)`; minus infinity where an index found none."""
        best: FloatArray = self.scores.max(axis=0)
        return best

    def leaking(self, number: int) -> Bools:
        """Which rows `(n,)` have a row of this set above the limit."""
        leaks: Bools = self.scores[number] > self.cosine
        return leaks


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lines:
    """Pairs above the cosine: row of ours, number of the set, row of the set, cosine; by row, best first."""

    rows: IntArray
    sets: IntArray
    others: IntArray
    scores: FloatArray


def _nearest(
    source: Feature,
    rows: IntArray,
    sets: list[_Set],
    cosine: float,
    report: Callable[[str, int, int], None],
) -> _Near:
    _measure(source, rows, sets)
    found, scores, unusable = [], [], {}
    for at, (part, vectors, bad) in enumerate(unit_blocks(source, rows)):
        found.append(part)
        scores.append(np.stack([each.index.search(vectors, 1).scores[:, 0] for each in sets]))
        unusable.update(bad)
        report("comparing", min(len(rows), (at + 1) * BLOCK), len(rows))
    return _Near(
        rows=np.concatenate(found),
        scores=np.concatenate(scores, axis=1),
        cosine=cosine,
        unusable=unusable,
    )


def _measure(source: Feature, rows: IntArray, sets: list[_Set]) -> None:
    """The recall of approximate indexes, on a sample of the very rows that are looked up."""
    for each in sets:
        if each.index.kind != "exact":
            sampled = rows[sample_places(len(rows), SAMPLE_QUERIES, each.seed)]
            asked = np.concatenate([vectors for _, vectors, _ in unit_blocks(source, sampled)])
            each.recall = each.index.recall(asked, 1)


def _lines(source: Feature, near: _Near, sets: list[_Set], neighbours: int) -> _Lines:
    columns: list[tuple[IntArray, IntArray, IntArray, FloatArray]] = []
    for number, each in enumerate(sets):
        mine = near.rows[near.leaking(number)]
        for part, vectors, _ in unit_blocks(source, mine):
            best = each.index.search(vectors, neighbours)
            left, at = np.nonzero(best.scores > near.cosine)
            others = each.rows[best.rows[left, at]]
            columns.append((part[left], np.full(len(left), number), others, best.scores[left, at]))
    if not columns:
        none = np.empty(0, np.int64)
        return _Lines(rows=none, sets=none, others=none, scores=np.empty(0))
    rows, numbers, others, scores = (np.concatenate(column) for column in zip(*columns, strict=True))
    order = np.lexsort((others, numbers, -scores, rows))
    return _Lines(rows=rows[order], sets=numbers[order], others=others[order], scores=scores[order])


def _figures(each: _Set, near: _Near, lines: _Lines, number: int) -> SetLeaks:
    return SetLeaks(
        name=each.reference.name,
        rows=len(each.rows),
        leaks=int(near.leaking(number).sum()),
        hit=len(np.unique(lines.others[lines.sets == number])),
        recall=each.recall,
    )


def _pairs(store: Store, source: Feature, lines: _Lines, sets: list[_Set]) -> pa.Table:
    """The lines with ids."""
    other_ids = np.empty(len(lines.rows), object)
    for number, each in enumerate(sets):
        mine = lines.sets == number
        other_ids[mine] = _ids(each.reference.store, source, lines.others[mine])
    return pa.table(
        {
            "id": _ids(store, source, lines.rows).tolist(),
            "other_id": other_ids.tolist(),
            "cosine": lines.scores,
            "set": [sets[number].reference.name for number in lines.sets.tolist()],
            "row": lines.rows,
            "other_row": lines.others,
        },
        schema=PAIRS,
    )


def _ids(store: Store, source: Feature, rows: IntArray) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
    """Ids of rows in any order, repeats allowed."""
    some, place = np.unique(rows, return_inverse=True)
    found = np.array(ids_at(store, source.table, some).to_pylist(), dtype=object)
    chosen: np.ndarray[tuple[int], np.dtype[np.object_]] = found[place]
    return chosen


def _ranked(pairs: pa.Table) -> pa.Table:
    order = np.lexsort((np.arange(len(pairs)), pairs["row"].to_numpy(), -pairs["cosine"].to_numpy()))
    return pairs.take(order)


def _dropped(lines: _Lines, pairs: pa.Table, unusable: dict[int, str]) -> pa.Table:
    """Of each leak its nearest row, then the rows that could not be compared."""
    rows, first = np.unique(lines.rows, return_index=True)
    nearest = pairs.take(first)
    alone = sorted(unusable)
    gone = pa.table(
        {
            "row": rows,
            "twin": nearest["other_id"],
            "score": nearest["cosine"],
            "parent": nearest["set"],
            "reason": pa.array(["leak"] * len(rows), pa.string()),
        }
    )
    bad = pa.table(
        {
            "row": pa.array(alone, pa.int64()),
            "twin": pa.nulls(len(alone), pa.string()),
            "score": pa.nulls(len(alone), pa.float64()),
            "parent": pa.nulls(len(alone), pa.string()),
            "reason": pa.array([unusable[row] for row in alone], pa.string()),
        }
    )
    return pa.concat_tables([gone, bad])


def _refuse_sets(names: list[str]) -> None:
    if not names:
        raise UsageError("no test set", todo="name other stores, or a split or subset with --against NAME")
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    if twice:
        raise UsageError("two test sets have one name", found=", ".join(twice))
