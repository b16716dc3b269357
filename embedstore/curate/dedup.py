"""The verb `curate dedup`: of rows of equal or nearly equal content one stays, which stands for all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from embedstore.curate.contents import contents
from embedstore.curate.greedy import greedy_twins
from embedstore.curate.meant import feature_parent, meant_rows, subset_parent
from embedstore.curate.operands import refuse_empty
from embedstore.curate.preference import preference
from embedstore.curate.semdedup import Meetings, meet
from embedstore.curate.vectors import pooled_feature, unit_vectors
from embedstore.errors import UsageError
from embedstore.store import Store, create_subset, open_store
from embedstore.store.choosing import choose_rows
from embedstore.store.ids import ids_at
from embedstore.store.subsets.writing import refuse_subset

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

    from embedstore.documents import SubsetParent, Table
    from embedstore.shapes import FloatArray, IntArray
    from embedstore.store import Subset

Method: TypeAlias = Literal["auto", "exhaustive", "semdedup", "exact"]
METHODS: tuple[Method, ...] = get_args(Method)
EPS = 0.05
PROBES = 4
EXHAUSTIVE_UP_TO = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """Rows that were compared `(n,)`, the place of each one's twin, -1 where it is kept, and their cosine."""

    rows: IntArray
    twin: IntArray
    score: FloatArray
    reason: str
    unusable: dict[int, str]
    settings: dict[str, Any]
    counts: dict[str, int]
    parents: tuple[SubsetParent, ...]


def dedup_store(
    store: Store | str | PathLike[str],
    name: str,
    *,
    feature: str | None = None,
    table: str | None = None,
    method: str = "auto",
    eps: float = EPS,
    prefer: str = "first",
    scores: str | None = None,
    rows: str | None = None,
    split: str | None = None,
    clusters: int | None = None,
    probes: int = PROBES,
    seed: int = 0,
    device: str = "cpu",
    memory_mb: int = 4096,
    overwrite: bool = False,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Subset:
    """Keep one of rows that are duplicates, as the subset `name`; `dropped` tells the twin of every other.

    `exhaustive` compares all pairs of pooled embeddings; `semdedup` those of rows in near clusters (Abbas and
    others, "SemDeDup", 2023): spherical k-means with `clusters` (√n), then every row against the kept rows of
    its `probes` nearest clusters; `auto` is the first up to 50,000 rows; `exact` compares contents
    (`contents.contents`). Rows are taken in the order of `preference`, and one goes when its cosine to a kept
    one exceeds 1 - `eps`. Rows without a direction (unreadable, zero, not finite) are dropped without a twin.
    `scores` defaults to the subset `rows`. Raises `UsageError`, and `StoreError` for unknown names.
    """
    opened = store if isinstance(store, Store) else open_store(store)
    refuse_subset(opened, name, overwrite=overwrite)
    _refuse_bad(method, eps, probes, clusters)
    chosen = None if rows is None else choose_rows(opened, rows)
    kind = _table(opened, table, feature)
    meant = meant_rows(opened, kind, split=split, chosen=chosen)
    if prefer == "score" and scores is None and rows in opened.subsets():
        scores = rows
    task = _Task(opened, kind, meant, prefer, scores, on_progress or (lambda *_: None))
    if method == "exact":
        found = task.exact(feature)
    else:
        if method == "auto":
            method = "exhaustive" if len(meant) <= EXHAUSTIVE_UP_TO else "semdedup"
        near = _Near(method, eps, clusters, probes, seed, device, memory_mb)
        found = task.near(feature, near)
    kept, gone = np.flatnonzero(found.twin < 0), np.flatnonzero(found.twin >= 0)
    refuse_empty(kept, f"none of {len(meant)} rows has an embedding that can be compared")
    reasons = sorted(set(found.unusable.values()))
    scored = subset_parent(opened, None if scores is None or scores == rows else choose_rows(opened, scores))
    return create_subset(
        opened,
        name,
        {"row": found.rows[kept]},
        table=kind,
        dropped=_dropped(opened, kind, found, gone),
        verb="dedup",
        settings={"method": method, **found.settings, "prefer": prefer, "scores": scores}
        | {"split": split, "rows": None if chosen is None else chosen.name},
        parents=(*found.parents, *subset_parent(opened, chosen), *scored),
        counts={"considered": len(meant), "duplicates": len(gone)}
        | {reason: sum(r == reason for r in found.unusable.values()) for reason in reasons}
        | found.counts,
        overwrite=overwrite,
    )


@dataclass(frozen=True, slots=True)
class _Near:
    """How near duplicates are looked for."""

    method: str
    eps: float
    clusters: int | None
    probes: int
    seed: int
    device: str
    memory_mb: int


@dataclass(frozen=True, slots=True)
class _Task:
    """Rows of a table of which one of each kind is to be kept."""

    store: Store
    table: Table
    rows: IntArray
    prefer: str
    scores: str | None
    report: Callable[[str, int, int], None]

    def order(self, rows: IntArray) -> IntArray:
        """Places in `rows`, the preferred first."""
        return preference(self.store, self.table, rows, self.prefer, scores=self.scores)

    def exact(self, feature: str | None) -> _Outcome:
        """Rows with the same content as a preferred one go."""
        found = contents(
            self.store,
            self.table,
            self.rows,
            feature=feature,
            on_progress=lambda done, total: self.report("contents", done, total),
        )
        order = self.order(found.rows)
        first = np.full(int(found.group.max(initial=-1)) + 1, -1, np.int64)
        # Backwards, so that the preferred of a group is written last.
        first[found.group[order[::-1]]] = order[::-1]
        twin = first[found.group]
        twin[twin == np.arange(len(twin))] = -1
        return _Outcome(
            rows=found.rows,
            twin=twin,
            score=np.ones(len(twin)),
            reason=f"same {found.compared}",
            unusable=found.unusable,
            settings={"compared": found.compared, "feature": found.feature and found.feature.name},
            counts={},
            parents=() if found.feature is None else (feature_parent(found.feature),),
        )

    def near(self, feature: str | None, how: _Near) -> _Outcome:
        """Rows too near to a preferred one go."""
        source = pooled_feature(self.store, feature, self.table)
        read = unit_vectors(
            source,
            self.rows,
            memory_mb=how.memory_mb,
            on_progress=lambda done, total: self.report("reading", done, total),
        )
        order = self.order(read.rows)
        met: Meetings | None = None
        settings: dict[str, Any] = {"eps": how.eps, "feature": source.name}
        counts: dict[str, int] = {}
        if how.method == "semdedup" and len(read.rows):
            met = meet(
                read.vectors,
                eps=how.eps,
                clusters=how.clusters,
                probes=how.probes,
                seed=how.seed,
                device=how.device,
                on_progress=lambda done, total: self.report("clustering", done, total),
            )
            recall, pairs = met.recall(read.vectors, order, seed=how.seed, device=how.device)
            settings |= {"clusters": met.count, "probes": how.probes, "seed": how.seed, "pair_recall": recall}
            counts["sampled_pairs"] = pairs
        twins = greedy_twins(
            read.vectors,
            order,
            1.0 - how.eps,
            clusters=None if met is None else met.clusters,
            visits=None if met is None else met.visits,
            device=how.device,
            on_progress=lambda done, total: self.report("comparing", done, total),
        )
        return _Outcome(
            rows=read.rows,
            twin=twins.twin,
            score=twins.score,
            reason="near duplicate",
            unusable=read.unusable,
            settings=settings,
            counts=counts,
            parents=(feature_parent(source),),
        )


def _dropped(store: Store, table: Table, found: _Outcome, gone: IntArray) -> dict[str, Any]:
    """Duplicates with their twins, then the rows that could not be compared."""
    twins, place = np.unique(found.rows[found.twin[gone]], return_inverse=True)
    ids = ids_at(store, table, twins).to_pylist()
    alone = sorted(found.unusable)
    return {
        "row": np.concatenate([found.rows[gone], np.array(alone, np.int64)]),
        "twin": [ids[at] for at in place.tolist()] + [None] * len(alone),
        "score": found.score[gone].tolist() + [None] * len(alone),
        "reason": [found.reason] * len(gone) + [found.unusable[row] for row in alone],
    }


def _table(store: Store, table: str | None, feature: str | None) -> Table:
    if table not in (None, "images", "texts"):
        raise UsageError("unknown table", where="--table", found=table, allowed="images, texts")
    if feature is not None:
        own = store.header(feature).table
        if table not in (None, own):
            raise UsageError(f"{feature!r} is a feature of {own}", where="--feature", allowed=f"of {table}")
        return own
    return "texts" if table == "texts" else "images"


def _refuse_bad(method: str, eps: float, probes: int, clusters: int | None) -> None:
    if method not in METHODS:
        raise UsageError("unknown method", where="--method", found=method, allowed=", ".join(METHODS))
    if not 0 < eps < 1:
        raise UsageError(
            "eps is 1 minus the cosine above which rows are duplicates",
            where="--eps",
            found=eps,
            allowed="above 0, below 1",
            todo="for equal content: --method exact" if eps == 0 else None,
        )
    if probes < 1 or (clusters is not None and clusters < 1):
        raise UsageError("at least one", where="--clusters, --probes", found=(clusters, probes))
