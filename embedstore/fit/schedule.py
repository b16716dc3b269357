"""Learning rate by step, which parameters decay, and the optimiser of a configuration."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from embedstore.fit.lion import Lion

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from embedstore.documents import FitConfig


def learning_rate(step: int, *, steps: int, warmup: int, peak: float, floor: float) -> float:
    """Rate of one step (from 0) of `steps`: linear up to `peak` over `warmup` steps, then cosine to `floor`.

    The first step takes `peak / warmup`, the last one `floor`; a run that is all warm-up ends at `peak`.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    share = (step - warmup + 1) / (steps - warmup)
    return floor + (peak - floor) * (1 + math.cos(math.pi * share)) / 2


def warmup_steps(config: FitConfig, *, steps: int, epoch: int) -> int:
    """Steps in which the rate rises, of `steps` in all and `epoch` an epoch."""
    if config.warmup_steps is not None:
        wanted = config.warmup_steps
    elif config.warmup_share is not None:
        wanted = round(config.warmup_share * steps)
    else:
        wanted = round(config.warmup_epochs * epoch)
    return min(steps, wanted)


def make_optimiser(
    config: FitConfig, modules: Iterable[nn.Module], device: torch.device
) -> torch.optim.Optimizer:
    """AdamW or Lion over the parameters of modules, with their own betas unless told."""
    groups = parameter_groups(modules, config.weight_decay)
    first = 0.9 if config.beta1 is None else config.beta1
    if config.optimiser == "lion":
        return Lion(groups, lr=config.lr, betas=(first, 0.99 if config.beta2 is None else config.beta2))
    second = 0.999 if config.beta2 is None else config.beta2
    fused = device.type in {"cpu", "cuda"}
    return torch.optim.AdamW(groups, lr=config.lr, betas=(first, second), fused=fused)


def parameter_groups(modules: Iterable[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms and the temperature (0 or 1 axis) never do."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
