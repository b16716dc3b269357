"""The verb `curate collect`: a concept-balanced subset of a pool, exact, in one stream and one re-reading.

After the collection of LAION-CLASS-Collected (freeze-align; ALGORITHMS): each concept keeps the K rows
of the pool that are most like its prototype; its commonality is the mean of their scores; from the rarest
concept to the most common each takes its best rows that no other has taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from embedstore.curate.collecting import Collection, Order, balanced
from embedstore.curate.groups import GROUPS, group_codes
from embedstore.curate.pool import Embedded, chosen_rows, embedded, name_of_rows
from embedstore.curate.prototypes import Prototypes, load_prototypes
from embedstore.curate.shards import best_on_ray
from embedstore.documents import SubsetParent
from embedstore.encoders.device import pick_device
from embedstore.errors import UsageError
from embedstore.index.screen import BLOCK, best_of
from embedstore.store import Store, choose_rows, create_subset, open_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

    from embedstore.documents import Table
    from embedstore.shapes import FloatArray, IntArray
    from embedstore.store import Subset

KEEP, PER_CONCEPT = 25_000, 2_000
SAMPLES = ("image", "row")
ENGINES = ("local", "ray")


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """A concept-balanced subset, and what is to be told of each concept, rarest first.

    `commonality (c,)`, `kept (c,)` rows that its commonality is of, `taken (c,)` rows in the subset.
    """

    subset: Subset
    concepts: tuple[str, ...]
    commonality: FloatArray
    kept: IntArray
    taken: IntArray
    per_concept: int
    considered: int
    left_out: dict[str, int]
    warning: str | None = None

    @property
    def short(self) -> tuple[str, ...]:
        """Concepts that got fewer rows than they were to have."""
        return tuple(c for c, n in zip(self.concepts, self.taken, strict=True) if n < self.per_concept)

    def to_dict(self) -> dict[str, Any]:
        """A JSON value: the card, and each concept."""
        return {
            "subset": self.subset.card.model_dump(mode="json"),
            "concepts": [
                {"concept": c, "commonality": float(m), "kept": int(k), "taken": int(t)}
                for c, m, k, t in zip(self.concepts, self.commonality, self.kept, self.taken, strict=True)
            ],
            "short": len(self.short),
            "warning": self.warning,
        }


def collect_rows(
    store: Store | str | PathLike[str],
    prototypes: Prototypes | str,
    name: str,
    *,
    table: str | None = None,
    feature: str | None = None,
    head: str | PathLike[str] | None = None,
    keep: int = KEEP,
    per_concept: int = PER_CONCEPT,
    order: Order = "rare-first",
    floor: float | None = None,
    cap: int | None = None,
    cap_by: str | None = None,
    once: str = "image",
    rows: str | None = None,
    split: str | None = None,
    language: str | None = None,
    seed: int = 0,
    block: int = BLOCK,
    threads: int | None = None,
    device: str = "cpu",
    engine: str = "local",
    ray_address: str | None = None,
    ray_workers: int | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Collected:
    """Make the concept-balanced subset `name` of a store's texts (or images, where it has no texts).

    The pool is the rows of `table` that `rows`, `split` and `language` leave, as embeddings of `feature` or
    of `head`; those that have no direction are left out and counted. Each concept keeps its `keep` best by
    cosine and takes at most `per_concept`; see `balanced` for `order`, `floor` and equal scores. `once`:
    'image' takes an image by one of its captions only, 'row' each caption by itself. At most `cap` rows in
    all have the same value of `cap_by` (one of `GROUPS`). The rows are the same for any `block`, thread count
    and engine.
    Raises `MismatchError` where pool and prototypes are of different spaces, `UsageError` for what cannot be
    meant, also where nothing is taken.
    """
    _check(keep=keep, per_concept=per_concept, once=once, engine=engine, order=order, cap=cap, cap_by=cap_by)
    opened = store if isinstance(store, Store) else open_store(store)
    if name in opened.subsets() and not overwrite:
        raise UsageError(
            f"there is a subset {name!r} already", todo="choose another name, or replace it with --overwrite"
        )
    wanted = prototypes if isinstance(prototypes, Prototypes) else load_prototypes(opened, prototypes)
    source = embedded(opened, _table(opened, table), feature=feature, head=head, device=device)
    warning = wanted.space.refuse_other(
        source.space, ours=f"prototypes {wanted.card.name}", theirs=f"feature {source.feature.name}"
    )
    pool, unreadable = chosen_rows(opened, source.feature, rows=rows, split=split, language=language)
    told = on_progress or (lambda _done, _total: None)
    if engine == "ray":
        best = best_on_ray(
            wanted.vectors,
            opened.place,
            source,
            pool,
            keep,
            head=head,
            block=block,
            device=device,
            address=ray_address,
            workers=ray_workers,
        )
    else:
        best = best_of(
            wanted.vectors,
            lambda at: source.vectors(pool[at]),
            len(pool),
            keep,
            block=block,
            threads=threads,
            device=str(pick_device(device)),
            on_progress=lambda done: told(done, len(pool)),
        )
    if not best.positions.shape[1]:
        raise UsageError(
            "no row of the pool has a direction", where=source.feature.name, found=f"{len(pool)} rows"
        )
    samples = opened.texts(["image"])["image"] if source.table == "texts" and once == "image" else None
    taken = balanced(
        best,
        per_concept=per_concept,
        order=order,
        floor=floor,
        samples=None if samples is None else _samples(samples.fill_null(-1).to_numpy()[pool]),
        groups=None if cap_by is None else group_codes(opened, source.table, cap_by)[pool],
        cap=cap,
        seed=seed,
    )
    if not len(taken.rows):
        raise UsageError("no row is taken", found=f"floor {floor}, cap {cap}", todo="lower --floor")
    left_out = {
        "could not be read": unreadable,
        "without a direction (zero, NaN or infinite)": len(pool) - best.valid,
    }
    subset = create_subset(
        opened,
        name,
        _lines(taken, pool, wanted),
        table=source.table,
        verb="collect",
        settings={
            "keep": keep,
            "per_concept": per_concept,
            "order": order,
            "floor": floor,
            "cap": cap,
            "cap_by": cap_by,
            "once": once if source.table == "texts" else "row",
            "split": split,
            "rows": name_of_rows(rows),
            "language": language,
            "seed": seed if order == "random" else None,
        },
        parents=_parents(opened, wanted, source, rows),
        counts={
            "considered": len(pool),
            "left_out": sum(left_out.values()),
            "concepts": len(taken.taken),
            "short_concepts": int((taken.taken < per_concept).sum()),
        },
        overwrite=overwrite,
    )
    rare = np.argsort(taken.commonality, kind="stable")
    return Collected(
        subset=subset,
        concepts=tuple(wanted.card.concepts[k] for k in rare),
        commonality=taken.commonality[rare],
        kept=np.full(len(rare), best.positions.shape[1]),
        taken=taken.taken[rare],
        per_concept=per_concept,
        considered=len(pool),
        left_out={reason: count for reason, count in left_out.items() if count},
        warning=warning,
    )


def _check(
    *, keep: int, per_concept: int, once: str, engine: str, order: str, cap: int | None, cap_by: str | None
) -> None:
    for option, value in (("--keep", keep), ("--per-concept", per_concept), ("--cap", cap)):
        if value is not None and value < 1:
            raise UsageError("at least one row", where=option, found=value)
    for option, word, allowed in (
        ("--once", once, SAMPLES),
        ("--engine", engine, ENGINES),
        ("--order", order, get_args(Order)),
        ("--cap-by", cap_by, GROUPS),
    ):
        if word is not None and word not in allowed:
            raise UsageError("unknown choice", where=option, found=word, allowed=", ".join(allowed))
    if (cap is None) != (cap_by is None):
        raise UsageError(
            "a cap needs what it is counted by", todo="give both --cap N and --cap-by " + "|".join(GROUPS)
        )
    if per_concept > keep:
        raise UsageError(
            "a concept takes from the rows that it keeps",
            where="--per-concept",
            found=per_concept,
            allowed=f"at most --keep, {keep}",
        )


def _table(store: Store, table: str | None) -> Table:
    if table is None:
        return "texts" if store.plan.texts else "images"
    if table not in ("images", "texts"):
        raise UsageError("unknown table", where="--table", found=table, allowed="images, texts")
    return "images" if table == "images" else "texts"


def _samples(images: IntArray) -> IntArray:
    """The sample of each text: its image, and a text without one is a sample by itself."""
    own = images.copy()
    alone = np.flatnonzero(own < 0)
    own[alone] = int(own.max(initial=-1)) + 1 + np.arange(len(alone))
    return own


def _lines(taken: Collection, pool: IntArray, prototypes: Prototypes) -> dict[str, Any]:
    names = np.array(prototypes.card.concepts, dtype=object)
    return {
        "row": pool[taken.rows],
        "concept": names[taken.concepts],
        "rank": taken.ranks,
        "score": taken.scores,
    }


def _parents(
    store: Store, prototypes: Prototypes, source: Embedded, rows: str | None
) -> tuple[SubsetParent, ...]:
    card = prototypes.card
    found = [
        SubsetParent(kind="prototypes", name=card.name, sha256=card.fingerprint),
        SubsetParent(kind="feature", name=source.feature.name, sha256=source.feature.manifest.fingerprint),
    ]
    if source.space.head_sha256 is not None:
        found.append(SubsetParent(kind="head", sha256=source.space.head_sha256))
    if rows is not None:
        named = choose_rows(store, rows)
        found.append(SubsetParent(kind="subset", name=named.name, sha256=named.sha256))
    return tuple(found)
