"""Lion, an optimiser that steps by the sign of a mean gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable


class Lion(torch.optim.Optimizer):
    """`p ← p − lr (sign(β1 m + (1 − β1) g) + λ p)`, then `m ← β2 m + (1 − β2) g`; m starts at 0.

    Decay λ is decoupled, as in AdamW. Every weight moves by `lr` in each step, so that a rate a third to a
    tenth of AdamW's is usual. Source: Chen et al., Symbolic Discovery of Optimization Algorithms, 2023,
    algorithm 2.
    """

    def __init__(
        self,
        params: Any,
        *,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override] # torch overloads it
        """One update from the gradients that are there."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            (first, second), lr = group["betas"], group["lr"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["mean"] = torch.zeros_like(p)
                mean = state["mean"]
                p.mul_(1 - lr * group["weight_decay"])
                p.sub_(mean.lerp(p.grad, 1 - first).sign_(), alpha=lr)
                mean.lerp_(p.grad, 1 - second)
        return loss
