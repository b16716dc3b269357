"""Learning rate by step, and which parameters decay."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn


def learning_rate(step: int, *, steps: int, warmup: int, peak: float, floor: float) -> float:
    """Rate of one step (from 0) of `steps`: linear up to `peak` over `warmup` steps, then cosine to `floor`.

    The first step takes `peak / warmup`, the last one `floor`; a run that is all warm-up ends at `peak`.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    share = (step - warmup + 1) / (steps - warmup)
    return floor + (peak - floor) * (1 + math.cos(math.pi * share)) / 2


def parameter_groups(modules: Iterable[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms and the temperature (0 or 1 axis) never do."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
