"""The store on disk: a valid Zarr v3 hierarchy with Parquet tables, written whole or not at all.

Read with `open_store`; write with `create_store`, `plan_feature` and `FeatureWriter`. Nothing here imports
torch. The format is specified in docs/format.md.
"""

from __future__ import annotations

from embedstore.store.chunks import ShardedArray
from embedstore.store.create import create_store
from embedstore.store.feature import Feature, Packed
from embedstore.store.geometry import feature_nbytes, plan_feature
from embedstore.store.journal import begun_headers
from embedstore.store.reader import Store, open_store
from embedstore.store.tables import ImageRow, MaskRow, TextRow, arrow_schemas
from embedstore.store.writer import FeatureWriter

__all__ = [
    "Feature",
    "FeatureWriter",
    "ImageRow",
    "MaskRow",
    "Packed",
    "ShardedArray",
    "Store",
    "TextRow",
    "arrow_schemas",
    "begun_headers",
    "create_store",
    "feature_nbytes",
    "open_store",
    "plan_feature",
]
