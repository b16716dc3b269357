"""The verb `bench`: what a head is worth, from cached features. One file a task, one line in the table."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from embedstore.registry import Registry

if TYPE_CHECKING:
    from embedstore.bench.classes import DEFAULT_TEMPLATES, read_descriptions, read_lines
    from embedstore.bench.compare import compare_files
    from embedstore.bench.confusion import confusion_csv
    from embedstore.bench.ease import ease_of_store, ease_of_toy_worlds
    from embedstore.bench.everything import measure_all, write_everything
    from embedstore.bench.languages.files import read_language_classes, read_language_templates
    from embedstore.bench.long_text import bench_long_text, measure_long_text
    from embedstore.bench.measured import Measured
    from embedstore.bench.multilingual import bench_multilingual, measure_multilingual
    from embedstore.bench.negatives import bench_negatives, measure_negatives
    from embedstore.bench.outcomes import Outcomes
    from embedstore.bench.probe import bench_probe, measure_probe
    from embedstore.bench.report import write_measured, write_report
    from embedstore.bench.retrieval import bench_retrieval, measure_retrieval
    from embedstore.bench.segment import bench_segment, measure_segment
    from embedstore.bench.segmentation.overlays import write_overlays
    from embedstore.bench.zeroshot import bench_zeroshot, measure_zeroshot

# A task is a function `(store, head_dir, *, split, device, seed, ...) -> Measured`.
TASKS = Registry(
    "bench task",
    {
        "probe": "embedstore.bench.probe:measure_probe",
        "multilingual": "embedstore.bench.multilingual:measure_multilingual",
        "long-text": "embedstore.bench.long_text:measure_long_text",
        "negatives": "embedstore.bench.negatives:measure_negatives",
        "retrieval": "embedstore.bench.retrieval:measure_retrieval",
        "segment": "embedstore.bench.segment:measure_segment",
        "zeroshot": "embedstore.bench.zeroshot:measure_zeroshot",
    },
    group="embedstore.tasks",
)

__all__ = [
    "DEFAULT_TEMPLATES",
    "TASKS",
    "Measured",
    "Outcomes",
    "bench_long_text",
    "bench_multilingual",
    "bench_negatives",
    "bench_probe",
    "bench_retrieval",
    "bench_segment",
    "bench_zeroshot",
    "compare_files",
    "confusion_csv",
    "ease_of_store",
    "ease_of_toy_worlds",
    "measure_all",
    "measure_long_text",
    "measure_multilingual",
    "measure_negatives",
    "measure_probe",
    "measure_retrieval",
    "measure_segment",
    "measure_zeroshot",
    "read_descriptions",
    "read_language_classes",
    "read_language_templates",
    "read_lines",
    "write_everything",
    "write_measured",
    "write_overlays",
    "write_report",
]

_LAZY = {
    "DEFAULT_TEMPLATES": "classes",
    "Measured": "measured",
    "Outcomes": "outcomes",
    "bench_long_text": "long_text",
    "bench_multilingual": "multilingual",
    "bench_negatives": "negatives",
    "bench_probe": "probe",
    "bench_retrieval": "retrieval",
    "bench_segment": "segment",
    "bench_zeroshot": "zeroshot",
    "compare_files": "compare",
    "confusion_csv": "confusion",
    "ease_of_store": "ease",
    "ease_of_toy_worlds": "ease",
    "measure_all": "everything",
    "measure_long_text": "long_text",
    "measure_multilingual": "multilingual",
    "measure_negatives": "negatives",
    "measure_probe": "probe",
    "measure_retrieval": "retrieval",
    "measure_segment": "segment",
    "measure_zeroshot": "zeroshot",
    "read_descriptions": "classes",
    "read_language_classes": "languages.files",
    "read_language_templates": "languages.files",
    "read_lines": "classes",
    "write_everything": "everything",
    "write_measured": "report",
    "write_overlays": "segmentation.overlays",
    "write_report": "report",
}


def __getattr__(name: str) -> Any:
    """Import torch only when something is measured."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"embedstore.bench.{_LAZY[name]}"), name)
