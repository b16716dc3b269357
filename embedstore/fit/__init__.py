"""Fit a head on cached tokens: configuration, training, and the folder that comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedstore.fit.config import fit_config
    from embedstore.fit.report import FitProgress, FitResult
    from embedstore.fit.trainer import fit_head
    from embedstore.fit.world import World, torchrun_world

__all__ = ["FitProgress", "FitResult", "World", "fit_config", "fit_head", "torchrun_world"]


def __getattr__(name: str) -> Any:
    """Import torch only when something is fitted."""
    if name == "fit_config":
        from embedstore.fit.config import fit_config

        return fit_config
    if name in {"World", "torchrun_world"}:
        from embedstore.fit import world

        return getattr(world, name)
    if name in __all__:
        from embedstore.fit import trainer

        return getattr(trainer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
