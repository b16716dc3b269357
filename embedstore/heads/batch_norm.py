"""Batch normalisation over the tokens of all pictures, where these may stand for unequal shares."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from embedstore.heads.precision import full, wide

MOMENTUM = 0.1


class TokenBatchNorm(nn.Module):
    """Per channel `(x − mean) / sqrt(variance + 1e-5) · γ + β`; while training the statistics of the batch.

    At test time the running ones: `0.9 old + 0.1 new` after every training batch, the new variance unbiased.
    """

    running_mean: Tensor
    running_variance: Tensor

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_variance", torch.ones(channels))

    def forward(self, x: Tensor, shares: Tensor, count: float) -> Tensor:
        """`x (n, c)`; `shares (n,)` with sum 1: what each counts in the statistics of `count` tokens.

        In float32 or wider.
        """
        with full(x.device):
            return self._normalised(wide(x), shares, count)

    def _normalised(self, x: Tensor, shares: Tensor, count: float) -> Tensor:
        if not self.training:
            scale = self.weight * (self.running_variance + self.eps).rsqrt()
            return torch.addcmul(self.bias - self.running_mean * scale, x, scale)
        mean = shares.to(x.dtype) @ x
        deviation = x - mean
        variance = shares.to(x.dtype) @ deviation.square()
        with torch.no_grad():
            self.running_mean.lerp_(mean, MOMENTUM)
            self.running_variance.lerp_(variance * (count / max(count - 1.0, 1.0)), MOMENTUM)
        return torch.addcmul(self.bias, deviation, self.weight * (variance + self.eps).rsqrt())
