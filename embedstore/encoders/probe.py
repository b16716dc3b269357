"""What a model makes of one fixed input, in few numbers: tells apart configurations of equal tensors.

The hash of the weights does not see another activation, number of heads or epsilon, and libraries rename and
add the fields that say so. Therefore the encoder is run on an input that never changes, in whole float32, and
a summary of what it gives stands in the card. docs/format.md defines both; `PROBE_TOLERANCE` says how near
two summaries are that say the same.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from embedstore.encoders.base import ImageBatch, TextBatch
    from embedstore.shapes import Float32Array

# Short and long, since positions decide little in a short text.
PROBE_TEXTS = (
    "A dog runs on the beach.",
    (
        "Two red cubes stand left of a small green ball, 3.5 m away; in the background a woman with a yellow "
        "umbrella waits for bus No. 42 while it rains. Ein Mädchen läuft über die Straße, 犬が走る."
    ),
)
_BLOCKS = 8
_VALUES = 8
_MOST_NOISE = 1 << 20
_DIGITS = 6


def probe_pixels(size: tuple[int, int]) -> Float32Array:
    """The picture that every model is shown, as it leaves a processor `(3, h, w)`: colours and noise."""
    height, width = size
    blocks = _drawn("blocks", 3 * _BLOCKS * _BLOCKS).reshape(3, _BLOCKS, _BLOCKS)
    rows, columns = np.arange(height) * _BLOCKS // height, np.arange(width) * _BLOCKS // width
    noise = np.resize(_drawn("noise", min(3 * height * width, _MOST_NOISE)), (3, height, width))
    pixels: Float32Array = np.float32(1.5) * blocks[:, rows[:, None], columns] + np.float32(0.5) * noise
    return pixels


def summary(batch: ImageBatch | TextBatch) -> tuple[float, ...] | None:
    """24 numbers near ±1 of a batch in float32; none where it holds NaN or infinity.

    Eight each, as sums with fixed random signs, of the mean token; of the tokens summed with a fixed sign for
    each place, over the square root of their number; and of the pooled embeddings, each as a unit vector.
    Tokens are measured by their root mean square length, so that rounding weighs the same in every model.
    """
    mask = getattr(batch, "mask", None)
    tokens = _numbers(batch.tokens).reshape(-1, batch.tokens.shape[-1])
    if mask is not None:
        tokens = tokens[mask.cpu().numpy().reshape(-1)]
    count = max(1, len(tokens))
    length = np.sqrt(np.sum(np.square(tokens)) / count) or 1.0
    signed = _signs("places", len(tokens)) @ tokens
    values = [
        _projected("mean", tokens.sum(0) / (count * length)),
        _projected("signed", signed / (np.sqrt(count) * length)),
        sum(
            _projected(f"pooled {place}", one / (np.linalg.norm(one) or 1.0))
            for place, one in enumerate(_numbers(batch.pooled))
        ),
    ]
    found = np.concatenate(values)
    return tuple(found.round(_DIGITS).tolist()) if np.isfinite(found).all() else None


def _numbers(tensor: Tensor) -> NDArray[np.float64]:
    found: NDArray[np.float64] = tensor.detach().float().cpu().numpy().astype(np.float64)
    return found


def _projected(name: str, vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return vector @ _signs(name, len(vector) * _VALUES).reshape(-1, _VALUES)


def _signs(name: str, count: int) -> NDArray[np.float64]:
    return np.where(_drawn(name, count) > 0, 1.0, -1.0)


def _drawn(name: str, count: int) -> Float32Array:
    """`count` numbers in [-1, 1]: bytes of SHAKE-256, which no version of a library changes."""
    found = np.frombuffer(hashlib.shake_256(f"embedstore probe {name}".encode()).digest(count), np.uint8)
    return (found.astype(np.float32) - np.float32(127.5)) / np.float32(127.5)
