"""The verb `encode`: frozen encoders run once over a source into a store."""

from __future__ import annotations

from embedstore.encode.dry_run import DryRun, FeaturePrediction, dry_run_source
from embedstore.encode.options import EncodeOptions
from embedstore.encode.progress import EncodeSummary, FeatureSummary, Progress
from embedstore.encode.run import encode_source

__all__ = [
    "DryRun",
    "EncodeOptions",
    "EncodeSummary",
    "FeaturePrediction",
    "FeatureSummary",
    "Progress",
    "dry_run_source",
    "encode_source",
]
