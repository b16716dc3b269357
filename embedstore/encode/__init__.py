"""The verbs that make features: `encode` runs frozen encoders, `apply` a fitted head, `recode` neither."""

from __future__ import annotations

from embedstore.encode.apply import AppliedFeature, apply_head
from embedstore.encode.dry_run import DryRun, FeaturePrediction, dry_run_source
from embedstore.encode.engines.options import EngineOptions, Part
from embedstore.encode.options import EncodeOptions
from embedstore.encode.progress import EncodeSummary, FeatureSummary, Progress
from embedstore.encode.recode import RecodeSummary, recode_feature
from embedstore.encode.run import encode_source

__all__ = [
    "AppliedFeature",
    "DryRun",
    "EncodeOptions",
    "EncodeSummary",
    "EngineOptions",
    "FeaturePrediction",
    "FeatureSummary",
    "Part",
    "Progress",
    "RecodeSummary",
    "apply_head",
    "dry_run_source",
    "encode_source",
    "recode_feature",
]
