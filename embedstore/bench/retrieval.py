"""Retrieval: which picture a caption finds, and which captions a picture finds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from embedstore.bench.figures import retrieval_chance, share_figure
from embedstore.bench.measured import Measured, report_of, silent
from embedstore.bench.outcomes import Outcomes, figures_of, pair_outcomes
from embedstore.bench.ranking import LOOKED_AT, Ranking, ranking
from embedstore.bench.rows import Pairs, select_pairs
from embedstore.bench.setting import Setting, open_either
from embedstore.bench.versions import FAISS
from embedstore.documents import BenchReport

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    from embedstore.bench.measured import Progress
    from embedstore.documents import Figure
    from embedstore.shapes import Float32Array, IntArray
    from embedstore.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieved:
    """Everything of one retrieval task: pairs, joint embeddings `(n, e)` and `(m, e)`, and ranks."""

    setting: Setting
    pairs: Pairs
    images: Float32Array
    texts: Float32Array
    ranks: Ranking
    index: str = "exact"

    @property
    def text_to_image(self) -> IntArray:
        """Rank of each text's image `(m,)`."""
        return self.ranks.text_to_image

    @property
    def image_to_text(self) -> IntArray:
        """Rank of each image's best text `(n,)`."""
        return self.ranks.image_to_text


def measure_retrieval(
    store: Store | str | PathLike[str],
    head_dir: str | PathLike[str] | None = None,
    *,
    image: str | None = None,
    text: str | None = None,
    split: str | None = "test",
    language: str = "en",
    role: str = "caption",
    index: str = "exact",
    device: str = "auto",
    seed: int = 0,
    rows: IntArray | str | None = None,
    on_progress: Progress | None = None,
) -> Measured:
    """Recall@1, 5 and 10, the median and the mean rank, both ways, exact, with several captions an image.

    Without a head the stored pooled embeddings of the features `image` and `text` are compared: what `apply`
    made, or the towers of one model; with a head, these are the features that it reads.

    A query is a hit where at least one of its positives is among the first k (CLIP_benchmark's definition);
    equal scores go to the lower row. index: `ivf`, `hnsw` or `pq` in place of `exact` takes the first 10 of
    an approximate FAISS index, so that there is no median or mean rank; the report tells the share of the
    exact first 10 that it finds, of at most 512 queries. The gallery is every image of the split (none: every
    image) that has a text of this role and language, and all those texts; `rows` narrows to image rows, or to
    those of a subset or file of ids by its name; one of texts narrows the texts too. Intervals: 95 %
    bootstrap over images, each with all its texts, seeded; of an index's recall over its queries.
    `on_progress(what, done, total)`. Raises `UsageError` and `HeadError` as `open_setting` and `select_pairs`
    do.
    """
    found = retrieve(
        open_either(store, head_dir, split=split, device=device, image=image, text=text, rows=rows),
        split=split,
        language=language,
        role=role,
        index=index,
        seed=seed,
        on_progress=on_progress,
    )
    outcomes = retrieval_outcomes(found)
    report = retrieval_report(found, outcomes, split=split, language=language, role=role, seed=seed)
    return Measured(report=report, found=found, outcomes=outcomes)


bench_retrieval = report_of(measure_retrieval)


def retrieve(
    setting: Setting,
    *,
    split: str | None,
    language: str = "en",
    role: str = "caption",
    index: str = "exact",
    seed: int = 0,
    rows: IntArray | None = None,
    on_progress: Progress | None = None,
) -> Retrieved:
    """Select, embed and rank; `rows` in place of those of the setting."""
    pairs = select_pairs(
        setting.store,
        setting.image,
        setting.text,
        split=split,
        language=language,
        role=role,
        rows=setting.rows if rows is None else rows,
        texts=setting.texts,
    )
    told = on_progress or silent
    images = setting.embed_images(pairs.images, on_progress=partial(told, "images"))
    texts = setting.embed_texts(pairs.texts, on_progress=partial(told, "texts"))
    return Retrieved(
        setting=setting,
        pairs=pairs,
        images=images,
        texts=texts,
        ranks=ranking(
            images,
            texts,
            pairs.image_of,
            index=index,
            seed=seed,
            device=str(setting.embedder.device),
            on_progress=partial(told, "images ranked"),
        ),
        index=index,
    )


def retrieval_report(
    found: Retrieved,
    outcomes: Mapping[str, Outcomes],
    *,
    split: str | None,
    language: str,
    role: str,
    seed: int,
) -> BenchReport:
    """The figures of what was retrieved, with intervals and chance."""
    pairs = found.pairs
    metrics, chance = rank_tables(found, outcomes, seed=seed)
    return BenchReport(
        task="retrieval",
        metrics=metrics,
        chance=chance,
        images=len(pairs.images),
        texts=len(pairs.texts),
        skipped={reason: count for reason, count in pairs.skipped.items() if count},
        split=split,
        language=language,
        role=role,
        options={"index": found.index},
        notes=found.setting.notes,
        seed=seed,
        **found.setting.report_fields(*(() if found.index == "exact" else FAISS)),
    )


def rank_tables(
    found: Retrieved, outcomes: Mapping[str, Outcomes], *, seed: int
) -> tuple[dict[str, dict[str, Figure]], dict[str, dict[str, float]]]:
    """Figures of both directions, and what random scores give.

    Of an approximate index those that need no rank above 10, and `index_recall@10`.
    """
    pairs = found.pairs
    metrics = {way: figures_of(own, seed=seed) for way, own in outcomes.items()}
    for way, recalls in found.ranks.index_recalls.items():
        metrics[way][f"index_recall@{LOOKED_AT}"] = share_figure(recalls, seed=seed)
    chance = {
        "text_to_image": retrieval_chance(np.ones_like(pairs.texts), len(pairs.images)),
        "image_to_text": retrieval_chance(pairs.counts, len(pairs.texts)),
    }
    return metrics, {
        way: {name: value for name, value in known.items() if name in metrics[way]}
        for way, known in chance.items()
    }


def retrieval_outcomes(found: Retrieved) -> dict[str, Outcomes]:
    """What became of each text and of each image."""
    ranks = {"text_to_image": found.text_to_image, "image_to_text": found.image_to_text}
    whole = not found.ranks.index_recalls
    return pair_outcomes(found.setting.store, found.pairs, ranks, whole=whole)
