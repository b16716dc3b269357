"""Retrieval: which picture a caption finds, and which captions a picture finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedstore.bench.figures import retrieval_chance, retrieval_figures
from embedstore.bench.measured import Measured, report_of
from embedstore.bench.outcomes import Outcomes, image_ids, rank_outcomes, text_ids
from embedstore.bench.rows import Pairs, select_pairs
from embedstore.bench.setting import Setting, open_setting, open_stored
from embedstore.documents import BenchReport
from embedstore.index.exact import ranks_of_positives
from embedstore.metrics.recall import Positives

if TYPE_CHECKING:
    from os import PathLike

    from embedstore.shapes import Float32Array, IntArray
    from embedstore.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieved:
    """Everything of one retrieval task: pairs, joint embeddings `(n, e)` and `(m, e)`, and ranks.

    text_to_image `(m,)`: rank of each text's image; image_to_text `(n,)`: rank of each image's best text.
    """

    setting: Setting
    pairs: Pairs
    images: Float32Array
    texts: Float32Array
    text_to_image: IntArray
    image_to_text: IntArray


def measure_retrieval(
    store: Store | str | PathLike[str],
    head_dir: str | PathLike[str] | None = None,
    *,
    image: str | None = None,
    text: str | None = None,
    split: str | None = "test",
    language: str = "en",
    role: str = "caption",
    device: str = "auto",
    seed: int = 0,
    rows: IntArray | str | None = None,
) -> Measured:
    """Recall@1, 5 and 10 and the median rank, both ways, exact, with several captions an image.

    Without a head the stored pooled embeddings of the features `image` and `text` are compared: what `apply`
    made, or the towers of one model; with a head, these are the features that it reads.

    A query is a hit where at least one of its positives is among the first k (CLIP_benchmark's definition);
    equal scores go to the lower row. The gallery is every image of the split (none: every image) that has a
    text of this role and language, and all those texts; `rows` narrows to image rows, or to those of a
    subset or file of ids by its name; one of texts narrows the texts too. Intervals: 95 % bootstrap over
    queries, seeded; each caption counts as a query of its own. Raises `UsageError` and `HeadError` as
    `open_setting` and `select_pairs` do.
    """
    setting = (
        open_stored(store, image=image, text=text, device=device, rows=rows)
        if head_dir is None
        else open_setting(store, head_dir, split=split, device=device, image=image, text=text, rows=rows)
    )
    found = retrieve(
        setting,
        split=split,
        language=language,
        role=role,
    )
    report = retrieval_report(found, split=split, language=language, role=role, seed=seed)
    return Measured(report=report, found=found, outcomes=retrieval_outcomes(found))


bench_retrieval = report_of(measure_retrieval)


def retrieve(
    setting: Setting,
    *,
    split: str | None,
    language: str = "en",
    role: str = "caption",
    rows: IntArray | None = None,
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
    images = setting.embedder.embed_images(setting.image, pairs.images)
    texts = setting.embedder.embed_texts(setting.text, pairs.texts)
    kind = str(setting.embedder.device)
    own = Positives.single(pairs.image_of)
    captions = Positives(rows=np.arange(len(texts)), offsets=pairs.offsets)
    return Retrieved(
        setting=setting,
        pairs=pairs,
        images=images,
        texts=texts,
        text_to_image=ranks_of_positives(texts, images, own, device=kind),
        image_to_text=ranks_of_positives(images, texts, captions, device=kind),
    )


def retrieval_report(
    found: Retrieved, *, split: str | None, language: str, role: str, seed: int
) -> BenchReport:
    """The figures of what was retrieved, with intervals and chance."""
    pairs = found.pairs
    return BenchReport(
        task="retrieval",
        metrics={
            "text_to_image": retrieval_figures(found.text_to_image, seed=seed),
            "image_to_text": retrieval_figures(found.image_to_text, seed=seed),
        },
        chance={
            "text_to_image": retrieval_chance(np.ones_like(pairs.texts), len(pairs.images)),
            "image_to_text": retrieval_chance(pairs.counts, len(pairs.texts)),
        },
        images=len(pairs.images),
        texts=len(pairs.texts),
        skipped={reason: count for reason, count in pairs.skipped.items() if count},
        split=split,
        language=language,
        role=role,
        notes=found.setting.notes,
        seed=seed,
        **found.setting.report_fields(),
    )


def retrieval_outcomes(found: Retrieved) -> dict[str, Outcomes]:
    """What became of each text and of each image."""
    store, pairs = found.setting.store, found.pairs
    return {
        "text_to_image": rank_outcomes(text_ids(store, pairs.texts), found.text_to_image),
        "image_to_text": rank_outcomes(image_ids(store, pairs.images), found.image_to_text),
    }
