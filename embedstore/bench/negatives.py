"""Negatives: whether a picture is nearer to its caption than to the same caption, altered."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from embedstore.bench.measured import Measured, report_of, silent
from embedstore.bench.outcomes import Outcomes, figures_of, image_ids, text_ids
from embedstore.bench.rows import NO_TEXT, select_images
from embedstore.bench.setting import Setting, open_either
from embedstore.documents import BenchReport
from embedstore.errors import UsageError
from embedstore.index.products import pair_scores
from embedstore.metrics.statistics import Statistic
from embedstore.store.selection import altered, readable, texts_with

if TYPE_CHECKING:
    from os import PathLike

    from embedstore.bench.measured import Progress
    from embedstore.shapes import FloatArray, IntArray
    from embedstore.store import Store

GROUP = "image_to_text"
NO_OWN = "an altered caption without the caption that it alters"
_ACCURACY = {"accuracy": Statistic(kind="mean", value="right")}
_MEAN = {"mean-per-category": Statistic(kind="stratum-mean", value="right")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrasted:
    """Everything of one task: pictures, captions and altered captions as rows of the store's tables `(k,)`.

    categories `(k,)`: the kind of change, null where none is told; scores `(k,)` float64 of the caption and
    of the altered one with the picture; skipped: reason to negatives left out.
    """

    setting: Setting
    images: IntArray
    captions: IntArray
    negatives: IntArray
    categories: tuple[str | None, ...]
    caption_scores: FloatArray
    negative_scores: FloatArray
    skipped: dict[str, int]

    @property
    def right(self) -> FloatArray:
        """1 where the caption's score is higher, 0.5 where both are equal, else 0; `(k,)`."""
        higher = (self.caption_scores > self.negative_scores).astype(np.float64)
        return np.where(self.caption_scores == self.negative_scores, 0.5, higher)


def measure_negatives(
    store: Store | str | PathLike[str],
    head_dir: str | PathLike[str] | None = None,
    *,
    image: str | None = None,
    text: str | None = None,
    split: str | None = "test",
    language: str = "en",
    device: str = "auto",
    seed: int = 0,
    rows: IntArray | str | None = None,
    on_progress: Progress | None = None,
) -> Measured:
    """Share of altered captions that a picture is less like than the caption they alter: accuracy.

    A pair is a text of role `negative` and the caption of its picture before it (`store.selection.altered`).
    Equal scores count half; the two texts of a pair that are the same words are one text. Accuracy over all
    pairs, of each category (group `image_to_text/CATEGORY`) and, where all pairs have one, the mean over
    categories. Random scores give 0.5. Intervals: 95 % bootstrap over images, each with all its pairs.
    Without a head stored embeddings are compared, as in `measure_retrieval`. `rows` narrows to image rows or
    to those of a subset or file of ids by its name; one of texts narrows the negatives too.
    `on_progress(what, done, total)`. Raises as `open_setting`, and `UsageError` where there is no such pair.
    """
    setting = open_either(store, head_dir, split=split, device=device, image=image, text=text, rows=rows)
    found = contrast(setting, split=split, language=language, on_progress=on_progress)
    outcomes = negative_outcomes(found)
    report = negatives_report(found, outcomes, split=split, language=language, seed=seed)
    return Measured(report=report, found=found, outcomes=outcomes)


bench_negatives = report_of(measure_negatives)


def contrast(
    setting: Setting, *, split: str | None, language: str, on_progress: Progress | None = None
) -> Contrasted:
    """Select the pairs, embed pictures and texts once each, and score."""
    images, captions, negatives, skipped = _pairs(setting, split, language)
    table = setting.store.texts(["text", "category"])
    pictures, of_picture = np.unique(images, return_inverse=True)
    texts, of_text = np.unique(np.concatenate([captions, negatives]), return_inverse=True)
    # Equal words may differ in the last bits of their features, which depend on their batch.
    words = pc.dictionary_encode(table["text"].take(texts)).combine_chunks().indices.to_numpy()
    _, first, same = np.unique(words, return_index=True, return_inverse=True)
    told = on_progress or silent
    seen = setting.embed_images(pictures, on_progress=partial(told, "images"))
    said = setting.embed_texts(texts[first], on_progress=partial(told, "texts"))
    own, other = same[of_text][: len(captions)], same[of_text][len(captions) :]
    return Contrasted(
        setting=setting,
        images=images,
        captions=captions,
        negatives=negatives,
        categories=tuple(table["category"].take(negatives).to_pylist()),
        caption_scores=pair_scores(seen, said, of_picture, own),
        negative_scores=pair_scores(seen, said, of_picture, other),
        skipped=skipped,
    )


def _pairs(
    setting: Setting, split: str | None, language: str
) -> tuple[IntArray, IntArray, IntArray, dict[str, int]]:
    """Rows of picture, caption and negative of each pair, and what was left out."""
    store = setting.store
    chosen, skipped = select_images(store, setting.image, split=split, rows=setting.rows)
    image_of = store.texts(["image"])["image"].fill_null(-1).to_numpy()
    counted = texts_with(store, role="negative", language=language) & np.isin(image_of, chosen)
    if setting.texts is not None:
        counted &= setting.texts
    negatives, captions = altered(store, language)
    here = counted[negatives]
    negatives, captions = negatives[here], captions[here]
    skipped[NO_OWN] = int(counted.sum()) - len(negatives)
    good = readable(setting.text)
    good = good[negatives] & good[captions]
    skipped[NO_TEXT] = int((~good).sum())
    negatives, captions = negatives[good], captions[good]
    if not len(negatives):
        raise UsageError(
            "nothing to measure: no picture with a caption and an altered one",
            found=f"split {split}, language {language}; left out: {skipped}",
        )
    return image_of[negatives], captions, negatives, skipped


def negative_outcomes(found: Contrasted) -> dict[str, Outcomes]:
    """What became of each altered caption: of all, and of each category."""
    store, right = found.setting.store, found.right
    ids, owners = text_ids(store, found.negatives), image_ids(store, found.images)
    categories = np.array(found.categories, dtype=object)
    known = sorted({name for name in found.categories if name is not None})
    outcomes = {
        GROUP: Outcomes(
            ids=ids,
            owners=owners,
            strata=found.categories if known else None,
            values={"right": right},
            statistics=_ACCURACY | (_MEAN if known and None not in found.categories else {}),
        )
    }
    for name in known:
        own = np.flatnonzero(categories == name)
        outcomes[f"{GROUP}/{name}"] = Outcomes(
            ids=ids.take(own),
            owners=owners.take(own),
            values={"right": right[own]},
            statistics=_ACCURACY,
        )
    return outcomes


def negatives_report(
    found: Contrasted, outcomes: dict[str, Outcomes], *, split: str | None, language: str, seed: int
) -> BenchReport:
    """The figures of what was contrasted, with intervals and chance."""
    metrics = {group: figures_of(own, seed=seed) for group, own in outcomes.items()}
    ties = int((found.caption_scores == found.negative_scores).sum())
    missing = found.categories.count(None)
    notes = [*found.setting.notes]
    if ties:
        notes.append(f"{ties} of {len(found.negatives)} pairs have equal scores, which count half")
    if missing and len(metrics) > 1:
        notes.append(
            f"{missing} of {len(found.negatives)} pairs have no category, so there is no mean of these"
        )
    return BenchReport(
        task="negatives",
        metrics=metrics,
        chance={group: dict.fromkeys(figures, 0.5) for group, figures in metrics.items()},
        images=len(np.unique(found.images)),
        texts=len(np.unique(np.concatenate([found.captions, found.negatives]))),
        skipped={reason: count for reason, count in found.skipped.items() if count},
        split=split,
        language=language,
        role="negative",
        options={"pairs": len(found.negatives)},
        notes=tuple(notes),
        seed=seed,
        **found.setting.report_fields(),
    )
