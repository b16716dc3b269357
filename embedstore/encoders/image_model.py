"""What the image encoders of timm and open_clip share: pixels in one batch, a frozen forward, a probe."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedstore.documents import EncoderCard
from embedstore.encoders.cards import library_versions, weights_sha256, with_activation
from embedstore.encoders.device import ComputeType, device_kind, exactly, frozen_forward
from embedstore.encoders.probe import probe_pixels, summary
from embedstore.errors import EncoderError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Literal

    from PIL.Image import Image
    from torch import Tensor

    from embedstore.encoders.base import ImageBatch
    from embedstore.encoders.checkpoint import Checkpoint
    from embedstore.encoders.transforms import Transform
    from embedstore.shapes import Float32Array


@dataclass(frozen=True, kw_only=True)
class ImageModel:
    """A loaded model and how it is read.

    `read`: pixels `(b, 3, h, w)` to an `ImageBatch`; `used`: the tensors that its forward pass reads;
    `final_norm`: whether the tokens passed the model's final norm; `positions`: how they were fitted to a
    size that is not the model's own.
    """

    model: Any
    read: Callable[[Tensor], ImageBatch]
    grid: tuple[int, int]
    used: Iterable[Tensor]
    library: Literal["timm", "open_clip"]
    distribution: str
    architecture: str
    pooling: str
    final_norm: bool
    registers: int = 0
    positions: str | None = None


class ModelImageEncoder:
    """A frozen `ImageModel` behind the protocol `ImageEncoder`."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        loaded: ImageModel,
        transform: Transform,
        *,
        device: torch.device,
        dtype: ComputeType,
    ) -> None:
        self.model = loaded.model.eval().requires_grad_(requires_grad=False).to(device)
        self._read, self._transform, self._device, self._dtype = loaded.read, transform, device, dtype
        self._card = self._make_card(checkpoint, loaded)

    @property
    def card(self) -> EncoderCard:
        """The identity of the features this encoder makes."""
        return self._card

    @property
    def preparation(self) -> Transform:
        """What `prepare` calls, without the model: another process may be given it."""
        return self._transform

    def prepare(self, picture: Image) -> Float32Array:
        """An RGB picture to the pixels the model sees, `(3, h, w)` float32, by the library's transform."""
        return self._transform(picture)

    def encode(self, pixels: Sequence[Float32Array]) -> ImageBatch:
        """Prepared pictures to tokens `(b, t, d)`, prefix `(b, p, d)` and pooled `(b, w)`."""
        batch = torch.empty((len(pixels), *pixels[0].shape), pin_memory=self._device.type == "cuda")
        np.stack(pixels, out=batch.numpy())
        with frozen_forward(self._device, self._dtype):
            return self._read(batch.to(self._device, non_blocking=True))

    def _make_card(self, checkpoint: Checkpoint, loaded: ImageModel) -> EncoderCard:
        """Every width is read from one forward pass."""
        with exactly():
            probe = self.encode([probe_pixels(self._transform.card.size)])
        rows, columns = loaded.grid
        if probe.tokens.shape[1] != rows * columns:
            raise EncoderError(
                "the model gives another number of tokens than its grid has places",
                where=checkpoint.model,
                found=f"{probe.tokens.shape[1]} tokens for a grid of {rows}x{columns}",
            )
        return EncoderCard(
            modality="image",
            library=loaded.library,
            architecture=with_activation(loaded.architecture, self.model),
            model=checkpoint.model,
            revision=checkpoint.revision,
            weights_sha256=weights_sha256(loaded.used),
            final_norm=loaded.final_norm,
            width=probe.tokens.shape[2],
            pooled_width=probe.pooled.shape[1],
            pooling=loaded.pooling,
            grid=loaded.grid,
            prefix=0 if probe.prefix is None else probe.prefix.shape[1],
            registers=loaded.registers,
            positions=loaded.positions,
            probe=summary(probe),
            processor=self._transform.card,
            compute_dtype=self._dtype,
            device_kind=device_kind(self._device),
            versions=library_versions("torch", "torchvision", "pillow")
            | {loaded.library: version(loaded.distribution)},
        )
