"""The verb `curate`: subsets of a store's rows, chosen for a reason that is kept. One file a verb."""

from __future__ import annotations

import importlib
from typing import Any

_MODULES: dict[str, str] = {
    "combine_subsets": "algebra",
    "describe_subset": "overview",
    "list_subset": "listing",
    "pairs_svg": "pair_plot",
    "rank_pairs": "pairs",
    "sample_rows": "algebra",
    "score_rows": "score",
    "subset_of_ids": "ids",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    """Import torch only when something is curated."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"embedstore.curate.{_MODULES[name]}"), name)
