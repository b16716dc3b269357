"""The random world of freeze-align's toy experiment (appendix A.4, figure A.3), one instance a number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from embedstore.shapes import Float32Array, FloatArray

VECTORS, WIDTH = 32, 16
HIDDEN = 16 * WIDTH


@dataclass(frozen=True, slots=True, kw_only=True)
class ToySets:
    """Two sets of vectors `a, b (n, d)` that two random networks make of one latent, and the first map.

    weight `(d, d)`, bias `(1, d)`: where the linear map from a to b begins.
    """

    a: Float32Array
    b: Float32Array
    weight: Float32Array
    bias: Float32Array


def toy_sets(number: int, *, seed: int) -> ToySets:
    """The instance of this number: it depends on nothing but `seed` and `number`.

    Latent z uniform in [-1, 1]; `a = T1(z) + w1·r1`, `b = T2(z) + w2·r2`, w and r uniform in [0, 1]; T: two
    layers with a ReLU between. All weights begin as torch's `nn.Linear` does: uniform within ±1/√inputs.
    """
    rng = np.random.default_rng([seed, number])
    z = rng.uniform(-1, 1, (VECTORS, WIDTH))
    seen = [_network(rng, z) for _ in range(2)]
    share = rng.random(2)
    a, b = (s + w * rng.random(z.shape) for s, w in zip(seen, share, strict=True))
    weight, bias = first_map(rng, WIDTH, WIDTH)
    return ToySets(a=a.astype(np.float32), b=b.astype(np.float32), weight=weight, bias=bias)


def first_map(rng: np.random.Generator, inputs: int, outputs: int) -> tuple[Float32Array, Float32Array]:
    """Weight `(inputs, outputs)` and bias `(1, outputs)` float32 of a fresh linear layer."""
    return (
        _uniform(rng, (inputs, outputs), inputs).astype(np.float32),
        _uniform(rng, (1, outputs), inputs).astype(np.float32),
    )


def _network(rng: np.random.Generator, z: FloatArray) -> FloatArray:
    hidden = z @ _uniform(rng, (WIDTH, HIDDEN), WIDTH) + _uniform(rng, (1, HIDDEN), WIDTH)
    found: FloatArray = np.maximum(hidden, 0) @ _uniform(rng, (HIDDEN, WIDTH), HIDDEN)
    return found + _uniform(rng, (1, WIDTH), HIDDEN)


def _uniform(rng: np.random.Generator, shape: tuple[int, int], inputs: int) -> FloatArray:
    reach = 1 / np.sqrt(inputs)
    return rng.uniform(-reach, reach, shape)
