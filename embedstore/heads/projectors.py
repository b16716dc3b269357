"""The four projectors of freeze-align, on vectors and as exact means over tokens.

Everything after the GELU of a token projector is linear, and a mean commutes with a linear map:
`mean_t P(x_t) = W_l mean_t(x̂_t) + b_l + W_2 mean_t GELU(W_1 x̂_t + b_1) + b_2`. So a mean over tokens
costs one product with a `d × e` matrix per token, and no gradient towards the frozen tokens is formed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from embedstore.heads.buffers import converted
from embedstore.heads.dropout import drop_, dropout
from embedstore.heads.mean_gelu import mean_gelu
from embedstore.heads.precision import full, product_dtype

if TYPE_CHECKING:
    from embedstore.documents import Projection
    from embedstore.heads.segments import Segments


class Projector(nn.Module):
    """`(…, d)` to `(…, e)`, and its exact mean over the tokens of each sample."""

    def mean(self, tokens: Tensor, segments: Segments) -> Tensor:
        """Frozen tokens in their stored dtype `(places, d)` to `(b, e)`: project each, then the mean."""
        return segments.mean(self(tokens.to(self.dtype)))

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights, float32 where there are none."""
        return next((p.dtype for p in self.parameters()), torch.float32)


class TokenProjector(Projector):
    """`W_l x̂ + b_l + W_2 GELU(W_1 x̂ + b_1) + b_2` with x̂ the layer-normalised token after dropout.

    LayerNorm's scale γ and shift β are folded into `W_1` and `W_l` (`W diag γ`, `b + W β`), so dropout acts
    on the normalised token before scale and shift, and a dropped channel still gets its shift. At test
    time that is the paper's order exactly. Source: freeze-align, section 3 ("token projector").
    """

    def __init__(self, width_in: int, width_out: int, *, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width_in)
        self.linear = nn.Linear(width_in, width_out)
        self.hidden = nn.Linear(width_in, width_out)
        self.out = nn.Linear(width_out, width_out)
        self.dropout = dropout

    @property
    def _rate(self) -> float:
        return self.dropout if self.training else 0.0

    def _folded(self, layer: nn.Linear, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        with full(layer.weight.device):
            weight = layer.weight * (self.norm.weight * scale)
            return weight, layer.bias + layer.weight @ self.norm.bias

    def forward(self, x: Tensor) -> Tensor:
        """`(…, d)` to `(…, e)`, with a gradient to `x` where it has one."""
        x = dropout(functional.layer_norm(x, x.shape[-1:], eps=self.norm.eps), self._rate)
        hidden: Tensor = self.out(functional.gelu(functional.linear(x, *self._folded(self.hidden))))
        return functional.linear(x, *self._folded(self.linear)) + hidden

    def mean(self, tokens: Tensor, segments: Segments) -> Tensor:
        """Frozen tokens in their stored dtype `(places, d)` to `(b, e)`, mean first."""
        with torch.no_grad(), converted(tokens, self.dtype) as wide:
            x = functional.layer_norm(wide, wide.shape[-1:], eps=self.norm.eps)
            scale = drop_(x, self._rate)
            mean_x = segments.mean(x)
            x = x.to(product_dtype(self.hidden.weight))
        weight, bias = (p.to(x.dtype) for p in self._folded(self.hidden, scale))
        hidden: Tensor = self.out(mean_gelu(x, weight, bias, segments))
        return functional.linear(mean_x, *self._folded(self.linear, scale)) + hidden


class MlpProjector(Projector):
    """`h = W x + b; LayerNorm(h + Dropout(W_2 GELU(h) + b_2))`; everything after the first map is e wide.

    Over tokens it is evaluated token by token: its last step is not linear. Source: freeze-align, section 3.
    """

    def __init__(self, width_in: int, width_out: int, *, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(width_in, width_out)
        self.second = nn.Linear(width_out, width_out)
        self.norm = nn.LayerNorm(width_out)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """`(…, d)` to `(…, e)`."""
        h = self.first(x)
        y: Tensor = self.norm(
            h + dropout(self.second(functional.gelu(h)), self.dropout if self.training else 0.0)
        )
        return y


class LinearProjector(Projector):
    """`W x + b`."""

    def __init__(self, width_in: int, width_out: int, *, dropout: float) -> None:  # noqa: ARG002 - one signature for all
        super().__init__()
        self.linear = nn.Linear(width_in, width_out)

    def forward(self, x: Tensor) -> Tensor:
        """`(…, d)` to `(…, e)`."""
        y: Tensor = self.linear(x)
        return y

    def mean(self, tokens: Tensor, segments: Segments) -> Tensor:
        """A linear map commutes with the mean: `(places, d)` to `(b, e)`."""
        with converted(tokens, self.dtype) as wide:
            y: Tensor = self(segments.mean(wide))
        return y


class IdentityProjector(Projector):
    """What comes in goes out, widened to float32 where it was narrower."""

    def forward(self, x: Tensor) -> Tensor:
        """`x` itself."""
        return x

    def mean(self, tokens: Tensor, segments: Segments) -> Tensor:
        """The mean of the tokens of each sample, float32 or wider: `(places, d)` to `(b, d)`."""
        with converted(tokens, torch.promote_types(tokens.dtype, torch.float32)) as wide:
            return segments.mean(wide)


def projector(kind: Projection, width_in: int, width_out: int, *, dropout: float) -> Projector:
    """The projector named `kind`; 'identity' needs no widths and is not checked here."""
    kinds: dict[Projection, type[Projector]] = {
        "token": TokenProjector,
        "mlp": MlpProjector,
        "linear": LinearProjector,
    }
    if kind == "identity":
        return IdentityProjector()
    return kinds[kind](width_in, width_out, dropout=dropout)
