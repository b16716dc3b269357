"""What became of each query of a multilingual task, language by language and for the averages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from embedstore.bench.averages import averaged_languages
from embedstore.bench.figures import RECALL_AT
from embedstore.bench.outcomes import Outcomes, image_ids, rank_outcomes, text_ids
from embedstore.bench.zeroshot import zeroshot_outcomes
from embedstore.metrics.statistics import Statistic

if TYPE_CHECKING:
    from embedstore.bench.multilingual import Languages
    from embedstore.bench.zeroshot import Classified
    from embedstore.shapes import IntArray


def language_outcomes(found: Languages) -> dict[str, Outcomes]:
    """Group of the report -> a row a query; of an average, a row a query of each of its languages."""
    groups: dict[str, Outcomes] = {}
    for direction in ("text_to_image", "image_to_text"):
        for language, own in found.retrieved.items():
            ids = (
                text_ids(found.setting.store, own.pairs.texts)
                if direction == "text_to_image"
                else image_ids(found.setting.store, own.pairs.images)
            )
            groups[f"{direction}/{language}"] = rank_outcomes(ids, getattr(own, direction))
        for name, chosen in averaged_languages(found.retrieved).items():
            groups[f"{direction}/{name}"] = _average_of_ranks(found, direction, chosen)
    for language, one in found.classified.items():
        groups[f"image_to_class/{language}"] = zeroshot_outcomes(one)["image_to_class"]
    for name, chosen in averaged_languages(found.classified).items():
        groups[f"image_to_class/{name}"] = _average_of_classes([found.classified[x] for x in chosen])
    return groups


def _average_of_ranks(found: Languages, direction: str, languages: tuple[str, ...]) -> Outcomes:
    """Rows of all languages, each about its image, which is drawn with all its queries."""
    images: list[IntArray] = []
    strata: list[str] = []
    for language in languages:
        pairs = found.retrieved[language].pairs
        own = pairs.images[pairs.image_of] if direction == "text_to_image" else pairs.images
        images.append(own)
        strata += [language] * len(own)
    ranks = [getattr(found.retrieved[language], direction) for language in languages]
    return Outcomes(
        ids=image_ids(found.setting.store, np.concatenate(images)),
        strata=pa.array(strata, pa.string()),
        values={"rank": np.concatenate(ranks)},
        statistics={
            f"recall@{k}": Statistic(kind="stratum-mean", value="rank", at_most=k) for k in RECALL_AT
        },
    )


def _average_of_classes(several: list[Classified]) -> Outcomes:
    """A row an image: in which share of the languages its class is the first, or among the first five."""
    first = several[0]
    shares = {f"top-{k}": np.mean([one.ranks <= k for one in several], axis=0) for k in (1, 5)}
    return Outcomes(
        ids=image_ids(first.setting.store, first.rows),
        strata=[first.classes[c].label for c in first.labels],
        values=shares,
        statistics={
            **{name: Statistic(kind="mean", value=name) for name in shares},
            "mean-per-class": Statistic(kind="stratum-mean", value="top-1"),
        },
    )
