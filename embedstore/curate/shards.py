"""The pool cut into shards that run in parallel on Ray; the best of each are merged exactly."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.curate.pool import Embedded, embedded
from embedstore.encoders.device import pick_device
from embedstore.errors import EngineError, MissingExtraError
from embedstore.index.screen import Best, best_of, merged
from embedstore.store import open_store

if TYPE_CHECKING:
    from os import PathLike

    from embedstore.shapes import Float32Array, IntArray

_OBJECT_BYTES = 1 << 30


def best_on_ray(
    queries: Float32Array,
    place: str,
    source: Embedded,
    rows: IntArray,
    keep: int,
    *,
    head: str | PathLike[str] | None,
    block: int,
    device: str,
    address: str | None = None,
    workers: int | None = None,
) -> Best:
    """`best_of` by tasks on Ray, a shard of the pool each; every machine opens the store at `place` itself.

    `MissingExtraError` where Ray is not installed, `EngineError` where no cluster can be had.
    """
    try:
        import ray
    except ImportError:
        raise MissingExtraError(
            "--engine ray needs the package 'ray'", todo="pip install 'embedstore[ray]'"
        ) from None
    mine = not ray.is_initialized()
    try:
        if mine:
            _connect(ray, address or os.environ.get("RAY_ADDRESS") or "local", workers)
        count = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        shards = [shard for shard in np.array_split(rows, count) if len(shard)]
        work = ray.remote(num_cpus=1, num_gpus=1 if device.startswith("cuda") else 0)(best_of_shard)
        asked = ray.put(queries)
        named = (
            place,
            source.table,
            source.feature.name,
            None if head is None else str(Path(head).resolve()),
        )
        found = [work.remote(asked, named, shard, keep, block=block, device=device) for shard in shards]
        starts = np.cumsum([0, *(len(shard) for shard in shards)])
        return merged(
            [
                Best(positions=p + int(s), scores=scores, valid=valid)
                for (p, scores, valid), s in zip(ray.get(found), starts, strict=False)
            ],
            keep,
        )
    except (ray.exceptions.RayError, ConnectionError) as bad:
        raise EngineError("a task on Ray failed", found=str(bad).strip().splitlines()[-1][:300]) from None
    finally:
        if mine:
            ray.shutdown()


def best_of_shard(
    queries: Float32Array,
    named: tuple[str, Any, str, str | None],
    rows: IntArray,
    keep: int,
    *,
    block: int,
    device: str,
) -> tuple[IntArray, Any, int]:
    """One task: places in `rows` and scores of each query's best, rows with a direction; on one thread."""
    place, table, feature, head = named
    source = embedded(open_store(place), table, feature=feature, head=head, device=device)
    best = best_of(
        queries,
        lambda at: source.vectors(rows[at]),
        len(rows),
        keep,
        block=block,
        threads=1,
        device=str(pick_device(device)),
    )
    return best.positions.astype(np.int64), best.scores, best.valid


def _connect(ray: Any, address: str, workers: int | None) -> None:
    more: dict[str, Any] = {}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        more = {
            "include_dashboard": False,
            "object_store_memory": _OBJECT_BYTES,
            "_node_ip_address": "127.0.0.1",
            "num_cpus": max(os.cpu_count() or 1, workers or 1),
        }
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **more)
    except (OSError, RuntimeError, ValueError) as bad:
        raise EngineError("Ray cannot be reached", found=str(bad)[:300]) from None
