"""The verbs that make features: `encode` runs frozen encoders once over a source, `recode` runs none."""

from __future__ import annotations

from embedstore.encode.dry_run import DryRun, FeaturePrediction, dry_run_source
from embedstore.encode.engines.options import EngineOptions, Part
from embedstore.encode.options import EncodeOptions
from embedstore.encode.progress import EncodeSummary, FeatureSummary, Progress
from embedstore.encode.recode import RecodeSummary, recode_feature
from embedstore.encode.run import encode_source

__all__ = [
    "DryRun",
    "EncodeOptions",
    "EncodeSummary",
    "EngineOptions",
    "FeaturePrediction",
    "FeatureSummary",
    "Part",
    "Progress",
    "RecodeSummary",
    "dry_run_source",
    "encode_source",
    "recode_feature",
]
