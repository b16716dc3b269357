"""The verb `bench`: what a head is worth, from cached features. One file a task, one line in the table."""

from __future__ import annotations

from embedstore.bench.classes import DEFAULT_TEMPLATES, read_lines
from embedstore.bench.report import write_report
from embedstore.bench.retrieval import bench_retrieval
from embedstore.bench.zeroshot import bench_zeroshot
from embedstore.registry import Registry

# A task is a function `(store, head_dir, *, split, device, seed, ...) -> BenchReport`.
TASKS = Registry(
    "bench task",
    {
        "retrieval": "embedstore.bench.retrieval:bench_retrieval",
        "zeroshot": "embedstore.bench.zeroshot:bench_zeroshot",
    },
    group="embedstore.tasks",
)

__all__ = ["DEFAULT_TEMPLATES", "TASKS", "bench_retrieval", "bench_zeroshot", "read_lines", "write_report"]
