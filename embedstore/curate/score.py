"""The verb `score`: rows whose image and text agree most, by any head or by stored embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from embedstore.curate.agreement import agreement, meant_texts, open_pair
from embedstore.curate.algebra import rows_told
from embedstore.curate.operands import opened, refuse_empty, refuse_taken
from embedstore.errors import UsageError
from embedstore.store import choose_rows, create_subset

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

    from embedstore.curate.agreement import Agreement
    from embedstore.documents import Table
    from embedstore.shapes import FloatArray, IntArray
    from embedstore.store import Store, Subset
    from embedstore.store.selection import Bools

CAPTIONS = ("best", "mean", "first")
LABELS = "labels"
BINS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A subset by score, and every score it was chosen from.

    rows, scores, kept `(n,)`: those that have a score, ascending by row. cut: the least score that is kept,
    none where each concept has its own. left_out: what has no score or no concept, and why.
    """

    subset: Subset
    rows: IntArray
    scores: FloatArray
    kept: Bools
    cut: float | None
    left_out: dict[str, int]

    def histogram(self, bins: int = BINS) -> tuple[FloatArray, IntArray, IntArray]:
        """Edges `(bins + 1,)`, and how many of all and of the kept scores lie between them `(bins,)`."""
        every, edges = np.histogram(self.scores, bins=bins)
        return edges, every, np.histogram(self.scores[self.kept], bins=edges)[0]


def score_rows(
    store: Store | str | PathLike[str],
    *,
    name: str,
    head: str | PathLike[str] | None = None,
    image: str | None = None,
    text: str | None = None,
    keep: float | None = None,
    min_score: float | None = None,
    concepts: str | None = None,
    captions: str = "best",
    table: str = "images",
    role: str = "caption",
    language: str = "en",
    rows: str | None = None,
    overwrite: bool = False,
    device: str = "auto",
    on_progress: Callable[[int, int], None] | None = None,
) -> Scored:
    """Keep the rows whose image and text have the highest cosine.

    The cosine is through `head` (stored where `apply` has made it, else from the cached tokens), or between
    the pooled embeddings of `image` and `text`, which are of one space. An image's score is that of its
    `best` caption, the `mean` of all, or that of the `first`; with `table="texts"` each text has its own.
    Texts are those of a `role` and a `language`, or 'all'.

    `keep`: the share of the scored rows, rounded up; with `concepts` of each concept's rows, which are the
    images' labels (`labels`) or the concept column of a subset. `min_score`: all from this cosine on. Equal
    scores go to the lower row. Every row carries score and rank, and its concept where they are given.
    `UsageError` for what cannot be chosen, `HeadError` for features that do not fit.
    """
    kind: Table = "texts" if table == "texts" else "images"
    _check(table, captions, keep, min_score, concepts)
    here = opened(store)
    refuse_taken(here, name, overwrite=overwrite)
    pair = open_pair(here, head=head, image=image, text=text, device=device)
    images, texts = np.ones(here.plan.images, dtype=bool), meant_texts(here, role=role, language=language)
    if rows is not None:
        chosen = choose_rows(here, rows)
        images[:] = False
        images[chosen.images(here)] = True
        own = chosen.texts(here)
        texts = texts if own is None else texts & own
    seen = agreement(here, pair, images=images, texts=texts, on_progress=on_progress)
    found, scores = _by_text(seen) if kind == "texts" else _by_image(seen, captions)
    refuse_empty(found, "no image has a text with a score")
    names = None if concepts is None else _concepts(here, concepts, kind, found)
    left_out = dict(seen.left_out)
    if names is not None:
        known = names.is_valid().to_numpy(zero_copy_only=False)
        left_out |= {"without_concept": int((~known).sum())} if not known.all() else {}
        found, scores, names = found[known], scores[known], names.filter(known)
        refuse_empty(found, f"no row has a concept in {concepts}")
    groups = None if names is None else names.dictionary_encode().indices.to_numpy()
    rank, kept = ranked(found, scores, groups, keep=keep, min_score=min_score)
    refuse_empty(found[kept], f"the highest of {len(found)} scores is {scores.max():.4g}")
    cut = None if concepts is not None and keep is not None else float(scores[kept].min())
    columns: dict[str, Any] = {"row": found[kept], "score": scores[kept], "rank": rank[kept]}
    subset = create_subset(
        here,
        name,
        columns | ({} if names is None else {"concept": names.filter(kept)}),
        table=kind,
        verb="score",
        settings={
            "image": pair.image.name,
            "text": pair.text.name,
            "captions": captions if kind == "images" else None,
            "role": role,
            "language": language,
            "keep": keep,
            "min_score": min_score,
            "concepts": concepts,
            "cut": cut,
            "rows": None if rows is None else rows_told(here, rows),
        },
        parents=pair.parents,
        counts={"considered": len(found)} | left_out,
        overwrite=overwrite,
    )
    return Scored(subset=subset, rows=found, scores=scores, kept=kept, cut=cut, left_out=left_out)


def ranked(
    rows: IntArray,
    scores: FloatArray,
    groups: IntArray | None,
    *,
    keep: float | None,
    min_score: float | None,
) -> tuple[IntArray, Bools]:
    """The rank `(n,)` of each row inside its group, from 1, best first, equal ones by row; and what is kept.

    `keep`: this share of each group, rounded up; `min_score`: from this score on.
    """
    group = np.zeros(len(rows), np.int64) if groups is None else groups
    order = np.lexsort((rows, -scores, group))
    sizes = np.bincount(group)
    rank = np.empty(len(rows), np.int64)
    rank[order] = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + 1
    if keep is None:
        return rank, scores >= (-np.inf if min_score is None else min_score)
    share = Fraction(str(keep))
    most = -(-sizes * share.numerator // share.denominator)
    return rank, rank <= most[group]


def _by_text(seen: Agreement) -> tuple[IntArray, FloatArray]:
    order = np.argsort(seen.texts)
    return seen.texts[order], seen.scores[order]


def _by_image(seen: Agreement, captions: str) -> tuple[IntArray, FloatArray]:
    """One score an image; its texts stand together, in the order of their rows."""
    if not len(seen.owners):
        return seen.owners, seen.scores
    first = np.flatnonzero(np.diff(seen.owners, prepend=-1))
    images = seen.owners[first]
    if captions == "best":
        return images, np.maximum.reduceat(seen.scores, first)
    if captions == "first":
        return images, seen.scores[first]
    return images, np.add.reduceat(seen.scores, first) / np.diff(np.append(first, len(seen.owners)))


def _concepts(store: Store, concepts: str, table: Table, rows: IntArray) -> pa.Array[Any]:
    """The concept of each row, null where it has none."""
    owners = rows if table == "images" else store.texts(["image"])["image"].to_numpy()[rows]
    if concepts == LABELS:
        return store.images(["label"])["label"].take(owners).combine_chunks()
    subset = store.subset(concepts)
    known = subset.read(["row", "concept"])
    if "concept" not in subset.card.columns:
        raise UsageError("the subset has no concepts", where="--concepts", found=concepts)
    wanted = rows if subset.table == table else owners
    if subset.table == "texts" and table == "images":
        raise UsageError(
            "concepts of texts for images", where="--concepts", found=concepts, todo="--table texts"
        )
    mine = known["row"].to_numpy()
    place = np.minimum(np.searchsorted(mine, wanted), len(mine) - 1)
    places = pa.array(place, mask=mine[place] != wanted)
    return known["concept"].take(places).combine_chunks()


def _check(
    table: str, captions: str, keep: float | None, min_score: float | None, concepts: str | None
) -> None:
    if table not in ("images", "texts"):
        raise UsageError("unknown table", where="--table", found=table, allowed="images, texts")
    if captions not in CAPTIONS:
        raise UsageError("unknown choice", where="--captions", found=captions, allowed=", ".join(CAPTIONS))
    if (keep is None) == (min_score is None):
        raise UsageError("how many rows?", allowed="one of --keep and --min-score")
    if keep is not None and not 0 < keep <= 1:
        raise UsageError("no share", where="--keep", found=keep, allowed="above 0, 1 at most")
    if min_score is not None and not -1 <= min_score <= 1:
        raise UsageError("no cosine", where="--min-score", found=min_score, allowed="-1 to 1")
    if concepts is not None and keep is None:
        raise UsageError("concepts are for a share of each", where="--concepts", todo="give --keep")
