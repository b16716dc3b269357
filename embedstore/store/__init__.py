"""The store on disk: a valid Zarr v3 hierarchy with Parquet tables, written whole or not at all.

Read with `open_store`; write with `create_store`, `plan_feature` and `FeatureWriter`. Nothing here imports
torch. The format is specified in docs/format.md.
"""

from __future__ import annotations

from embedstore.store.checks.report import Finding, VerifyReport
from embedstore.store.checks.sample import parse_share
from embedstore.store.checks.verify import verify_store
from embedstore.store.choosing import ChosenRows, choose_part, choose_rows
from embedstore.store.compact import CompactReport, compact_store
from embedstore.store.create import create_store, refuse_other_plan
from embedstore.store.feature import Feature, Packed
from embedstore.store.geometry import plan_feature
from embedstore.store.ids import read_ids
from embedstore.store.info import FeatureInfo, StoreInfo, store_info
from embedstore.store.joined import JoinedStore
from embedstore.store.journal import begun_headers
from embedstore.store.mix import MixedRows
from embedstore.store.order import (
    Done,
    EpochPlan,
    block_rows,
    epoch_order,
    epoch_plan,
    epoch_steps,
    group_rows,
)
from embedstore.store.padded import Padded
from embedstore.store.reader import Store, open_store
from embedstore.store.reads.blocks import GroupReader, row_tasks
from embedstore.store.reads.chunks import ShardedArray
from embedstore.store.sizes import feature_nbytes
from embedstore.store.storing import Storing
from embedstore.store.subsets.reading import Subset
from embedstore.store.subsets.writing import create_subset, remove_subset
from embedstore.store.tables import ImageRow, MaskRow, TextRow, arrow_schemas
from embedstore.store.writer import FeatureWriter

__all__ = [
    "ChosenRows",
    "CompactReport",
    "Done",
    "EpochPlan",
    "Feature",
    "FeatureInfo",
    "FeatureWriter",
    "Finding",
    "GroupReader",
    "ImageRow",
    "JoinedStore",
    "MaskRow",
    "MixedRows",
    "Packed",
    "Padded",
    "ShardedArray",
    "Store",
    "StoreInfo",
    "Storing",
    "Subset",
    "TextRow",
    "VerifyReport",
    "arrow_schemas",
    "begun_headers",
    "block_rows",
    "choose_part",
    "choose_rows",
    "compact_store",
    "create_store",
    "create_subset",
    "epoch_order",
    "epoch_plan",
    "epoch_steps",
    "feature_nbytes",
    "group_rows",
    "open_store",
    "parse_share",
    "plan_feature",
    "read_ids",
    "refuse_other_plan",
    "remove_subset",
    "row_tasks",
    "store_info",
    "verify_store",
]
