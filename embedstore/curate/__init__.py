"""The verb `curate`: subsets of a store's rows, chosen for a reason that is kept. One file a verb."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedstore.curate.collect import Collected, collect_rows
    from embedstore.curate.prototypes import (
        Prototypes,
        load_prototypes,
        prototypes_of_images,
        prototypes_of_texts,
    )

_MODULES = {
    "Collected": "collect",
    "Prototypes": "prototypes",
    "collect_rows": "collect",
    "load_prototypes": "prototypes",
    "prototypes_of_images": "prototypes",
    "prototypes_of_texts": "prototypes",
}
__all__ = [
    "Collected",
    "Prototypes",
    "collect_rows",
    "load_prototypes",
    "prototypes_of_images",
    "prototypes_of_texts",
]


def __getattr__(name: str) -> Any:
    """Import torch only when something is curated."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"embedstore.curate.{_MODULES[name]}"), name)
