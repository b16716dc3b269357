"""Fit a head, or many in one pass, on cached tokens: configuration, training, and the folders of heads."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedstore.fit.checkpoint import unfinished
    from embedstore.fit.config import fit_config
    from embedstore.fit.grid import Member, read_sweep
    from embedstore.fit.report import FitProgress, FitResult
    from embedstore.fit.sweep import fit_sweep
    from embedstore.fit.sweep_report import SweepProgress, SweepResult
    from embedstore.fit.trainer import fit_head
    from embedstore.fit.world import World, torchrun_world

_MODULES = {
    "FitProgress": "report",
    "FitResult": "report",
    "Member": "grid",
    "SweepProgress": "sweep_report",
    "SweepResult": "sweep_report",
    "World": "world",
    "fit_config": "config",
    "fit_head": "trainer",
    "fit_sweep": "sweep",
    "read_sweep": "grid",
    "torchrun_world": "world",
    "unfinished": "checkpoint",
}
__all__ = [
    "FitProgress",
    "FitResult",
    "Member",
    "SweepProgress",
    "SweepResult",
    "World",
    "fit_config",
    "fit_head",
    "fit_sweep",
    "read_sweep",
    "torchrun_world",
    "unfinished",
]


def __getattr__(name: str) -> Any:
    """Import torch only when something is fitted."""
    if name in _MODULES:
        return getattr(import_module(f"embedstore.fit.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
