"""How fast this machine encodes and fits, stage by stage, beside the limits of each."""

from __future__ import annotations

from embedstore.recipes.speed.measure import PARTS, measure_speed

__all__ = ["PARTS", "measure_speed"]
