"""The verb `curate`: subsets of a store's rows, chosen for a reason that is kept. One file a verb."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedstore.curate.algebra import combine_subsets, sample_rows
    from embedstore.curate.balance import balance_rows
    from embedstore.curate.collect import Collected, collect_rows
    from embedstore.curate.dedup import dedup_store
    from embedstore.curate.ids import subset_of_ids
    from embedstore.curate.leaks import find_leaks
    from embedstore.curate.listing import list_subset
    from embedstore.curate.mixing import mix_rows
    from embedstore.curate.overview import describe_subset
    from embedstore.curate.pair_plot import pairs_svg
    from embedstore.curate.pairs import rank_pairs
    from embedstore.curate.prototypes import (
        Prototypes,
        load_prototypes,
        prototypes_of_images,
        prototypes_of_texts,
    )
    from embedstore.curate.score import score_rows

_MODULES = {
    "Collected": "collect",
    "Prototypes": "prototypes",
    "balance_rows": "balance",
    "collect_rows": "collect",
    "combine_subsets": "algebra",
    "dedup_store": "dedup",
    "describe_subset": "overview",
    "find_leaks": "leaks",
    "list_subset": "listing",
    "load_prototypes": "prototypes",
    "mix_rows": "mixing",
    "pairs_svg": "pair_plot",
    "prototypes_of_images": "prototypes",
    "prototypes_of_texts": "prototypes",
    "rank_pairs": "pairs",
    "sample_rows": "algebra",
    "score_rows": "score",
    "subset_of_ids": "ids",
}
__all__ = [
    "Collected",
    "Prototypes",
    "balance_rows",
    "collect_rows",
    "combine_subsets",
    "dedup_store",
    "describe_subset",
    "find_leaks",
    "list_subset",
    "load_prototypes",
    "mix_rows",
    "pairs_svg",
    "prototypes_of_images",
    "prototypes_of_texts",
    "rank_pairs",
    "sample_rows",
    "score_rows",
    "subset_of_ids",
]


def __getattr__(name: str) -> Any:
    """Import torch only when something is curated."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"embedstore.curate.{_MODULES[name]}"), name)
