"""A head's sides as compiled programs, where there is a compiler for the device."""

from __future__ import annotations

import warnings
from functools import cache, wraps
from typing import TYPE_CHECKING, Any

import torch

from embedstore.errors import UsageError
from embedstore.fit.batch_statistics import normalises_by_batch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from embedstore.documents import FitConfig
    from embedstore.fit.world import World
    from embedstore.heads.base import Head

PROGRAMS = 64
"""How many programs of one function a process keeps: a sweep has a head a member, each with its own."""


class UncompiledWarning(UserWarning):
    """A fit that was to be compiled goes on without: its numbers are the same up to rounding."""


def compiles(config: FitConfig, head: Head, device: torch.device, world: World | None) -> bool:
    """Whether a fit's head is to be compiled; an `UncompiledWarning` where it should and cannot be.

    `UsageError` for batch normalisation over a batch that comes in parts, which stops half-way by design.
    """
    if not config.compile:
        return False
    parts = "micro_batch" if config.micro_batch is not None else None if world is None else "torchrun"
    if parts and any(normalises_by_batch(module) for module in head.modules()):
        raise UsageError(
            f"compile and {parts} exclude each other for a head with batch normalisation",
            where="compile",
            found=f"head {config.head!r}",
            todo=f"leave compile or {parts} out",
        )
    fault = compiler_fault(device.type)
    if fault is not None and (world is None or world.speaks):
        warnings.warn(
            f"the head is not compiled, since nothing can be compiled for {device.type} here: {fault}",
            UncompiledWarning,
            stacklevel=2,
        )
    return fault is None


@cache
def compiler_fault(kind: str) -> str | None:
    """Why nothing can be compiled for this kind of device, found by trying; none where it can be."""
    try:
        torch.compile(_small)(torch.ones(3, device=kind))
    except (RuntimeError, OSError, ImportError) as bad:
        lines = [line for line in str(bad).splitlines() if line.strip()] or [type(bad).__name__]
        return lines[0]
    return None


def _small(x: Tensor) -> Tensor:
    return x.sin() + 1


def compiled(side: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """One side of a head as a program, made at the first call for every kind of arguments."""
    program: Any = torch.compile(side)

    @wraps(side)
    def call(*arguments: Tensor | None) -> Tensor:
        # Beyond the limit torch would go on without a program.
        with torch._dynamo.config.patch(recompile_limit=PROGRAMS):
            found: Tensor = program(*arguments)
        return found

    return call


def any_length(*tensors: Tensor) -> None:
    """Let one program serve every size of these tensors' first axis."""
    for tensor in tensors:
        torch._dynamo.maybe_mark_dynamic(tensor, 0)
