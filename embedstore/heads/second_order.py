"""Second-order statistics of a set of tokens: one symmetric or cross matrix over the channels of each head.

Tokens come as `x (b, h, m, r)`: b samples, h heads, m places (those without a token hold zeros), r channels;
`count (b,)` is how many tokens each sample has. Square roots, logarithms and their differences of large
numbers are taken in float32 or wider, also where autocast is on.
Source: DALIP, section 4 and supplement, Table S3; details where the cited works leave a choice are ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from embedstore.errors import HeadError
from embedstore.heads.precision import wide

if TYPE_CHECKING:
    from torch import Tensor

BDC_EPS = 1e-5
KSPD_EPS = 1e-3


def squared_distances(x: Tensor) -> Tensor:
    """`‖x_i − x_j‖²` of all pairs of channels `(…, r, r)`, none negative, zeros on the diagonal."""
    with torch.autocast(x.device.type, enabled=False):
        x = wide(x)
        products = x.transpose(-1, -2) @ x
        own = products.diagonal(dim1=-2, dim2=-1)
        squared: Tensor = own.unsqueeze(-1) + own.unsqueeze(-2) - 2 * products
        return squared.clamp(min=0)


def centred(a: Tensor) -> Tensor:
    """`A − row mean − column mean + grand mean` of symmetric matrices `(…, r, r)`."""
    rows = a.mean(dim=-1, keepdim=True)
    return a - rows - rows.transpose(-1, -2) + rows.mean(dim=-2, keepdim=True)


def bdc_matrix(x: Tensor, count: Tensor) -> Tensor:
    """Brownian distance covariance `(b, h, r, r)`: `sqrt(‖x_i − x_j‖² / 2m + 1e-5)`, double-centred.

    The square root is of 1e-5 at least, so the gradient is finite where channels are identical.
    """
    scale = (2 * wide(count)).view(-1, 1, 1, 1)
    return centred((squared_distances(x) / scale + BDC_EPS).sqrt())


def moment_matrices(x: Tensor, count: Tensor) -> Tensor:
    """Cross-covariances of neighbouring heads `X_kᵀ X_{k+1} / m`, `(b, h − 1, r, r)`. Not centred.

    Source: moment probing, as DALIP compares it.
    """
    with torch.autocast(x.device.type, enabled=False):
        x = wide(x)
        products: Tensor = x[:, :-1].transpose(-1, -2) @ x[:, 1:]
        found: Tensor = products / wide(count).view(-1, 1, 1, 1)
    return found


def kspd_matrix(x: Tensor) -> Tensor:
    """Logarithm of the Gaussian kernel of the channels, `log(K + 1e-3 I)`, `(b, h, r, r)`.

    `K_ij = exp(−‖x_i − x_j‖² / 2σ²)`, σ² the mean of the squared distances over all r² pairs, without a
    gradient, and never quite 0, so that identical channels give `K = 1`. Taken in float64 where
    the device has it: an error of the kernel is up to a thousand times as large in its logarithm.
    Source: DeepKSPD, as DALIP compares it.
    """
    squared = squared_distances(x if x.device.type == "mps" else x.double())
    least = torch.finfo(squared.dtype).tiny ** 0.5
    spread = squared.detach().mean(dim=(-2, -1), keepdim=True).clamp(min=least)
    kernel = (squared / (-2 * spread)).exp()
    ridge = KSPD_EPS * torch.eye(x.shape[-1], dtype=kernel.dtype, device=x.device)
    found: Tensor = symmetric_log(kernel + ridge).to(wide(x).dtype)
    return found


class _SymmetricLog(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, least: float) -> Tensor:
        values, vectors = torch.linalg.eigh(a)
        values = values.clamp(min=least)
        ctx.save_for_backward(values, vectors)
        found: Tensor = (vectors * values.log().unsqueeze(-2)) @ vectors.transpose(-1, -2)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        values, vectors = ctx.saved_tensors
        inner = vectors.transpose(-1, -2) @ grad @ vectors
        back = vectors @ (inner * _divided_differences(values)) @ vectors.transpose(-1, -2)
        return (back + back.transpose(-1, -2)) / 2, None


def _divided_differences(values: Tensor) -> Tensor:
    """`(log λ_i − log λ_j) / (λ_i − λ_j)`, and its limit `1 / λ` where both are equal: never infinite.

    With `q = (λ_i − λ_j) / λ_j` it is `log1p(q) / q / λ_j`, which loses no digits for close values.
    """
    rows, columns = values.unsqueeze(-1), values.unsqueeze(-2)
    ratio = (rows - columns) / columns
    small = ratio.abs() < 1e-4
    safe = torch.where(small, torch.ones_like(ratio), ratio)
    series = 1 - ratio / 2 + ratio**2 / 3
    return torch.where(small, series, safe.log1p() / safe) / columns


def symmetric_log(a: Tensor) -> Tensor:
    """Matrix logarithm of symmetric positive definite `(…, r, r)`, differentiable once.

    The gradient is exact and finite for repeated eigenvalues, unlike that through the eigenvectors.
    Eigenvalues that rounding brought below half of `KSPD_EPS` are lifted to it.
    """
    if torch.compiler.is_exporting():
        raise HeadError(
            "the second order 'kspd' cannot be exported",
            found="the logarithm of a matrix, from its eigenvalues",
            allowed="second: mbdc, bdc, mp",
        )
    with torch.autocast(a.device.type, enabled=False):
        found: Tensor = _SymmetricLog.apply(wide(a), KSPD_EPS / 2)
    return found


def upper_triangle(a: Tensor) -> Tensor:
    """Diagonal and what is above it, row by row: `(…, r, r)` to `(…, r(r+1)/2)`."""
    r = a.shape[-1]
    rows, columns = torch.triu_indices(r, r, device=a.device)
    return a.flatten(-2).index_select(-1, rows * r + columns)
