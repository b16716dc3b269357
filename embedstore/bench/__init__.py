"""The verb `bench`: what a head is worth, from cached features. One file a task, one line in the table."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from embedstore.registry import Registry

if TYPE_CHECKING:
    from embedstore.bench.classes import DEFAULT_TEMPLATES, read_lines
    from embedstore.bench.ease import ease_of_store, ease_of_toy_worlds
    from embedstore.bench.long_text import bench_long_text, measure_long_text
    from embedstore.bench.measured import Measured
    from embedstore.bench.negatives import bench_negatives, measure_negatives
    from embedstore.bench.outcomes import Outcomes
    from embedstore.bench.report import write_measured, write_report
    from embedstore.bench.retrieval import bench_retrieval, measure_retrieval
    from embedstore.bench.zeroshot import bench_zeroshot, measure_zeroshot

# A task is a function `(store, head_dir, *, split, device, seed, ...) -> Measured`.
TASKS = Registry(
    "bench task",
    {
        "long-text": "embedstore.bench.long_text:measure_long_text",
        "negatives": "embedstore.bench.negatives:measure_negatives",
        "retrieval": "embedstore.bench.retrieval:measure_retrieval",
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
    "bench_negatives",
    "bench_retrieval",
    "bench_zeroshot",
    "ease_of_store",
    "ease_of_toy_worlds",
    "measure_long_text",
    "measure_negatives",
    "measure_retrieval",
    "measure_zeroshot",
    "read_lines",
    "write_measured",
    "write_report",
]

_LAZY = {
    "DEFAULT_TEMPLATES": "classes",
    "Measured": "measured",
    "Outcomes": "outcomes",
    "bench_long_text": "long_text",
    "bench_negatives": "negatives",
    "bench_retrieval": "retrieval",
    "bench_zeroshot": "zeroshot",
    "ease_of_store": "ease",
    "ease_of_toy_worlds": "ease",
    "measure_long_text": "long_text",
    "measure_negatives": "negatives",
    "measure_retrieval": "retrieval",
    "measure_zeroshot": "zeroshot",
    "read_lines": "classes",
    "write_measured": "report",
    "write_report": "report",
}


def __getattr__(name: str) -> Any:
    """Import torch only when something is measured."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"embedstore.bench.{_LAZY[name]}"), name)
