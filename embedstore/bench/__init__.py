"""The verb `bench`: what a head is worth, from cached features. One file a task, one line in the table."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from embedstore.registry import Registry

if TYPE_CHECKING:
    from embedstore.bench.classes import DEFAULT_TEMPLATES, read_lines
    from embedstore.bench.compare import compare_files
    from embedstore.bench.ease import ease_of_store, ease_of_toy_worlds
    from embedstore.bench.everything import measure_all, write_everything
    from embedstore.bench.measured import Measured
    from embedstore.bench.outcomes import Outcomes
    from embedstore.bench.report import write_measured, write_report
    from embedstore.bench.retrieval import bench_retrieval, measure_retrieval
    from embedstore.bench.zeroshot import bench_zeroshot, measure_zeroshot

# A task is a function `(store, head_dir, *, split, device, seed, ...) -> Measured`.
TASKS = Registry(
    "bench task",
    {
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
    "bench_retrieval",
    "bench_zeroshot",
    "compare_files",
    "ease_of_store",
    "ease_of_toy_worlds",
    "measure_all",
    "measure_retrieval",
    "measure_zeroshot",
    "read_lines",
    "write_everything",
    "write_measured",
    "write_report",
]

_LAZY = {
    "DEFAULT_TEMPLATES": "classes",
    "Measured": "measured",
    "Outcomes": "outcomes",
    "bench_retrieval": "retrieval",
    "bench_zeroshot": "zeroshot",
    "ease_of_store": "ease",
    "ease_of_toy_worlds": "ease",
    "compare_files": "compare",
    "measure_all": "everything",
    "measure_retrieval": "retrieval",
    "measure_zeroshot": "zeroshot",
    "read_lines": "classes",
    "write_everything": "everything",
    "write_measured": "report",
    "write_report": "report",
}


def __getattr__(name: str) -> Any:
    """Import torch only when something is measured."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"embedstore.bench.{_LAZY[name]}"), name)
