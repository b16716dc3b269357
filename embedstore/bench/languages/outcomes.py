"""What became of every row of a multilingual task, in each language and for the averages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embedstore.bench.figures import RECALL_AT
from embedstore.bench.languages.averages import averaged_languages
from embedstore.bench.outcomes import Outcomes, image_ids, pair_outcomes
from embedstore.bench.zeroshot import zeroshot_outcomes
from embedstore.metrics.statistics import Statistic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embedstore.bench.languages.averages import Tally
    from embedstore.bench.multilingual import Languages
    from embedstore.shapes import IntArray
    from embedstore.store import Store

AT_MOST = {f"recall@{k}": k for k in RECALL_AT}
TOP = {"top-1": 1, "top-5": 5}


def multilingual_outcomes(found: Languages) -> dict[str, Outcomes]:
    """Group -> its rows; those of an average are of images, with all that each has in every language.

    The average of mean-per-class is a mean of two kinds and is not among these.
    """
    store = found.setting.store
    outcomes: dict[str, Outcomes] = {}
    for language, own in found.retrieved.items():
        ranks = {direction: tally.ranks for direction, tally in own.tallies.items()}
        both = pair_outcomes(store, own.pairs, ranks)
        outcomes |= {f"{direction}/{language}": rows for direction, rows in both.items()}
    for direction in ("text_to_image", "image_to_text"):
        tallies = {language: own.tallies[direction] for language, own in found.retrieved.items()}
        outcomes |= _averages(store, direction, tallies, AT_MOST)
    for language, one in found.classified.items():
        outcomes[f"image_to_class/{language}"] = zeroshot_outcomes(one)["image_to_class"]
    classified = {language: one.tally for language, one in found.classified.items()}
    return outcomes | _averages(store, "image_to_class", classified, TOP)


def _averages(
    store: Store, direction: str, tallies: Mapping[str, Tally], at_most: Mapping[str, int]
) -> dict[str, Outcomes]:
    found = {}
    for name, chosen in averaged_languages(tallies).items():
        several = [tallies[language] for language in chosen]
        counts = [len(tally.ranks) for tally in several]
        rows: IntArray = np.concatenate([tally.units for tally in several])
        found[f"{direction}/{name}"] = Outcomes(
            ids=image_ids(store, rows),
            strata=np.repeat(np.array(chosen), counts).tolist(),
            values={"rank": np.concatenate([tally.ranks for tally in several])},
            statistics={
                metric: Statistic(kind="stratum-mean", value="rank", at_most=k)
                for metric, k in at_most.items()
            },
        )
    return found
