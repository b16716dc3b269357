"""The limit of whatever computes: bare products of large matrices, which do nothing else."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

from embedstore.bench.timing import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from embedstore.documents import RateUnit

PRODUCTS, BOUND = "matrix products", "products alone"
_WIDE_CPU, _WIDE_GPU = 1024, 8192
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def counted_flops(run: Callable[[], object]) -> int:
    """Operations of the matrix products and attentions of one call, a multiplication and an addition each."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def products(
    flops: float, *, amount: float, unit: RateUnit, device: torch.device, dtype: str
) -> tuple[Work, Work]:
    """Square products in the precision that the work computes in: as FLOP/s, and as a limit of the work.

    flops: what `amount` of `unit` costs. The limit is how much a second of it the bare products would do.
    """
    wide = _WIDE_GPU if device.type == "cuda" else _WIDE_CPU
    left, right = (torch.randn(wide, wide, device=device).to(_DTYPES[dtype]) for _ in range(2))
    room = torch.empty_like(left)
    done = 2.0 * wide**3

    def run() -> None:
        with torch.inference_mode():
            torch.matmul(left, right, out=room)
        finish(device)

    return (
        Work(what=PRODUCTS, run=run, amount=done, unit="FLOP/s"),
        Work(what=BOUND, run=run, amount=done / max(flops, 1.0) * amount, unit=unit),
    )


def finish(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Leave torch's random state as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
