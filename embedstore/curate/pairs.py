"""The verb `pairs`: which image encoder and which text encoder see the same things alike, before any fit.

freeze-align (section 4.1) chooses what to align by linear CKA over pictures and their captions. Here every
row is read once, in O(D²) memory for each pair; what needs n × n numbers is measured on a sample of rows.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, get_args

from embedstore.curate import pair_measures
from embedstore.curate.pair_sums import read_sums
from embedstore.documents import PairFigures, PairMeasure, PairsReport
from embedstore.errors import UsageError
from embedstore.metrics.hsic import LEAST_ROWS, too_few
from embedstore.store import Store, choose_rows, open_store
from embedstore.store.pair_rows import captioned, choose_features, places_of_sample, vector_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from os import PathLike

    from embedstore.curate.pair_measures import Measured
    from embedstore.documents import VectorKind
    from embedstore.store.pair_rows import Captions

MEASURES: tuple[PairMeasure, ...] = get_args(PairMeasure)


def rank_pairs(
    store: Store | str | PathLike[str],
    *,
    image: Sequence[str] | None = None,
    text: Sequence[str] | None = None,
    by: PairMeasure = "linear",
    split: str | None = None,
    rows: str | None = None,
    language: str = "en",
    role: str = "caption",
    captions: Captions = "mean",
    image_vector: VectorKind | None = None,
    text_vector: VectorKind | None = None,
    sample: int = 2000,
    neighbours: int = 10,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> PairsReport:
    """Every image feature with every text feature, the most alike first.

    A picture counts by the mean over CLS and all patches, its captions by the mean of their pooled
    embeddings, unnormalised, as in freeze-align; `image_vector`, `text_vector` and `captions` choose others.
    Linear CKA is over all rows of the split and of `rows` (the name of a subset or of a file of ids); RBF
    CKA (width: the median distance), mutual k-NN (cosine) and the intervals are of `sample` rows drawn by
    `seed`. Only rows that every feature holds are compared, so all pairs have the same ones.

    progress: called with rows done and of how many. `UsageError` for features, rows or options that cannot
    be compared, and for vectors that do not vary.
    """
    _check(by=by, captions=captions, sample=sample, neighbours=neighbours)
    opened = store if isinstance(store, Store) else open_store(store)
    images = choose_features(opened, image, "images")
    texts = choose_features(opened, text, "texts")
    chosen = choose_rows(opened, rows) if rows is not None else None
    found = captioned(
        opened,
        images,
        texts,
        split=split,
        language=language,
        role=role,
        captions=captions,
        chosen=chosen,
    )
    if len(found) < LEAST_ROWS:
        raise too_few(len(found))
    kinds = {f.name: vector_kind(f, image_vector) for f in images}
    kinds |= {f.name: vector_kind(f, text_vector) for f in texts}
    places = places_of_sample(len(found), sample, seed)
    read = read_sums(images, texts, found, kinds=kinds, places=places, progress=progress)
    k = min(neighbours, len(places) - 1)
    linear, biased = pair_measures.linear(read)
    rbf, rbf_biased, sigma = pair_measures.rbf(read)
    knn = pair_measures.knn(read, k)
    ranking: Measured = {"linear": linear, "linear-biased": biased, "rbf": rbf, "knn": knn}[by]
    order = ranking.order()
    behind = {pair: ranking.behind(order[0], pair) for pair in order[1:]}
    return PairsReport(
        by=by,
        pairs=tuple(
            PairFigures(
                image=pair[0],
                text=pair[1],
                linear=linear.figure(pair),
                linear_biased=biased.figure(pair),
                rbf=rbf.figure(pair),
                rbf_biased=rbf_biased[pair],
                knn=knn.figure(pair),
                behind=behind.get(pair),
            )
            for pair in order
        ),
        level=tuple(pair for pair in order[1:] if behind[pair].low <= 0),
        images=len(found),
        texts=len(found.texts),
        sample=len(places),
        neighbours=k,
        knn_chance=k / (len(places) - 1),
        sigma=sigma,
        vectors=kinds,
        captions=captions,
        skipped=found.skipped,
        split=split,
        rows=chosen.record(opened) if chosen else None,
        language=language,
        role=role,
        store_fingerprint=opened.fingerprint,
        cards={f.name: f.card for f in (*images, *texts)},
        versions={name: version(name) for name in ("embedstore", "numpy")},
        seed=seed,
    )


def value_of(pair: PairFigures, by: PairMeasure) -> float:
    """The figure of a pair that `by` names."""
    return {
        "linear": pair.linear,
        "linear-biased": pair.linear_biased,
        "rbf": pair.rbf,
        "knn": pair.knn,
    }[by].value


def _check(*, by: str, captions: str, sample: int, neighbours: int) -> None:
    if by not in MEASURES:
        raise UsageError("pairs are not ordered by this", found=by, allowed=", ".join(MEASURES))
    if captions not in ("mean", "first"):
        raise UsageError("captions are not joined like this", found=captions, allowed="mean, first")
    if sample < LEAST_ROWS:
        raise UsageError("the sample is too small", found=sample, allowed=f"{LEAST_ROWS} or more")
    if neighbours < 1:
        raise UsageError("a row has at least one neighbour", found=neighbours, allowed="1 or more")
