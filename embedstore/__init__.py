"""embedstore: encode once, align many times.

The public names are imported when they are first used, so that `import embedstore` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from embedstore.errors import EmbedstoreError

if TYPE_CHECKING:
    from embedstore.bench import bench_retrieval, bench_zeroshot
    from embedstore.encode import apply_head, encode_source
    from embedstore.fit import fit_head
    from embedstore.interchange import export_rows, import_feature
    from embedstore.model import AlignedModel, load, load_clip, load_head
    from embedstore.model.onnx import export_onnx
    from embedstore.model.publishing import push_head
    from embedstore.recipes.search import search_store
    from embedstore.store import (
        Feature,
        JoinedStore,
        Store,
        Subset,
        compact_store,
        create_subset,
        open_store,
        remove_subset,
        verify_store,
    )
    from embedstore.stream.cache import DeviceCache
    from embedstore.stream.dataset import TokenDataset, TokenStream
    from embedstore.stream.pairs import PairStream

__version__ = "0.1.0"
__all__ = [
    "AlignedModel",
    "DeviceCache",
    "EmbedstoreError",
    "Feature",
    "JoinedStore",
    "PairStream",
    "Store",
    "Subset",
    "TokenDataset",
    "TokenStream",
    "__version__",
    "apply_head",
    "bench_retrieval",
    "bench_zeroshot",
    "compact_store",
    "create_subset",
    "encode_source",
    "export_onnx",
    "export_rows",
    "fit_head",
    "import_feature",
    "load",
    "load_clip",
    "load_head",
    "open_store",
    "push_head",
    "remove_subset",
    "search_store",
    "verify_store",
]

_LAZY = {
    "AlignedModel": "embedstore.model",
    "DeviceCache": "embedstore.stream.cache",
    "Feature": "embedstore.store",
    "JoinedStore": "embedstore.store",
    "PairStream": "embedstore.stream.pairs",
    "Store": "embedstore.store",
    "Subset": "embedstore.store",
    "TokenDataset": "embedstore.stream.dataset",
    "TokenStream": "embedstore.stream.dataset",
    "apply_head": "embedstore.encode",
    "bench_retrieval": "embedstore.bench",
    "bench_zeroshot": "embedstore.bench",
    "compact_store": "embedstore.store",
    "create_subset": "embedstore.store",
    "encode_source": "embedstore.encode",
    "export_onnx": "embedstore.model.onnx",
    "export_rows": "embedstore.interchange",
    "fit_head": "embedstore.fit",
    "import_feature": "embedstore.interchange",
    "load": "embedstore.model",
    "load_clip": "embedstore.model",
    "load_head": "embedstore.model",
    "open_store": "embedstore.store",
    "push_head": "embedstore.model.publishing",
    "remove_subset": "embedstore.store",
    "search_store": "embedstore.recipes.search",
    "verify_store": "embedstore.store",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'embedstore' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
