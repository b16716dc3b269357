"""Image models of transformers: one line of the table a family.

Tokens are the last hidden state after the final norm, patches only, row-major; CLS and registers stand in
the prefix with the same norm. Pooled is the normed CLS, or for two-tower models the projected embedding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from embedstore.documents import EncoderCard
from embedstore.encoders.base import ImageBatch
from embedstore.encoders.cards import library_versions, weights_sha256
from embedstore.encoders.device import ComputeType, device_kind, frozen_forward, pick_device, pick_dtype
from embedstore.encoders.hf_model import choose_family, load_frozen, read_config
from embedstore.encoders.hf_processor import Preparation, Size, load_preparation
from embedstore.encoders.layers import LAST, Layers
from embedstore.errors import EncoderError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from PIL.Image import Image
    from torch import Tensor

    from embedstore.encoders.checkpoint import Checkpoint
    from embedstore.shapes import Float32Array


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFamily:
    """How one architecture is loaded and read.

    `norm`: last part of the name of a final norm that the model's last hidden state has not passed;
    `interpolate`: whether sizes other than the trained one must be asked for with an argument;
    `unused`: tensors that the forward pass never reads; `cls`: how many CLS tokens stand first.
    """

    model: str
    pooled: Literal["cls", "image_embeds"] = "cls"
    norm: str | None = None
    interpolate: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    cls: int = 1


_MASK = ("embeddings.mask_token",)
_CLIP = ImageFamily(
    model="CLIPVisionModelWithProjection", pooled="image_embeds", norm="post_layernorm", interpolate=True
)

FAMILIES: Mapping[str, ImageFamily] = {
    "dinov2": ImageFamily(model="Dinov2Model", unused=_MASK),
    "dinov2_with_registers": ImageFamily(model="Dinov2WithRegistersModel", unused=_MASK),
    "vit": ImageFamily(model="ViTModel", options={"add_pooling_layer": False}, interpolate=True),
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "CLIPVisionModel": ImageFamily(model="CLIPVisionModel", norm="post_layernorm", interpolate=True),
}


class HFImageEncoder:
    """A frozen image model of transformers behind the protocol `ImageEncoder`."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        family: ImageFamily,
        model: Any,
        preparation: Preparation,
        *,
        layers: Sequence[int],
        device: torch.device,
        dtype: ComputeType,
    ) -> None:
        self._family, self._preparation, self._device, self._dtype = family, preparation, device, dtype
        self.model = model.to(device)
        self._layers = Layers(model, layers, where=checkpoint.model)
        height, width = preparation.card.size
        patch, trained = _pair(model.config.patch_size), _pair(model.config.image_size)
        self._grid = height // patch[0], width // patch[1]
        self._prefix = family.cls + int(getattr(model.config, "num_register_tokens", 0))
        self._options = (
            {"interpolate_pos_encoding": True} if family.interpolate and trained != (height, width) else {}
        )
        self._norm = _submodule(model, family.norm) if family.norm else None
        self.cards = self._make_cards(checkpoint)

    @property
    def card(self) -> EncoderCard:
        """The identity of the first of the features that this encoder makes."""
        return self.cards[0]

    @property
    def preparation(self) -> Preparation:
        """What `prepare` calls, without the model: another process may be given it."""
        return self._preparation

    def prepare(self, picture: Image) -> Float32Array:
        """An RGB picture to the pixels the model sees, `(3, h, w)` float32, by the checkpoint's processor."""
        return self._preparation(picture)

    def encode(self, pixels: Sequence[Float32Array]) -> ImageBatch:
        """Prepared pictures to tokens `(b, t, d)`, prefix `(b, p, d)` and pooled `(b, w)`."""
        return self.encode_all(pixels)[0]

    def encode_all(self, pixels: Sequence[Float32Array]) -> tuple[ImageBatch, ...]:
        """What `encode` gives, for each layer."""
        batch = torch.empty((len(pixels), *pixels[0].shape), pin_memory=self._device.type == "cuda")
        np.stack(pixels, out=batch.numpy())
        with frozen_forward(self._device, self._dtype):
            inputs = {"pixel_values": batch.to(self._device, non_blocking=True), **self._options}
            output, seen = self._layers.run(self.model, **inputs)
            return tuple(
                self._last(output) if number == LAST else self._inner(seen[number])
                for number in self._layers.numbers
            )

    def _last(self, output: Any) -> ImageBatch:
        hidden = output.last_hidden_state if self._norm is None else self._norm(output.last_hidden_state)
        pooled = output.image_embeds if self._family.pooled == "image_embeds" else hidden[:, 0]
        return self._split(hidden, pooled)

    def _inner(self, hidden: Tensor) -> ImageBatch:
        return self._split(hidden, hidden[:, 0])

    def _split(self, hidden: Tensor, pooled: Tensor) -> ImageBatch:
        prefix = hidden[:, : self._prefix]
        return ImageBatch(
            tokens=hidden[:, self._prefix :], prefix=prefix if self._prefix else None, pooled=pooled
        )

    def _make_cards(self, checkpoint: Checkpoint) -> tuple[EncoderCard, ...]:
        """Every width is read from one forward pass, which must agree with the configuration."""
        unused = set(self._family.unused)
        used = [tensor for name, tensor in self.model.state_dict().items() if name not in unused]
        weights = weights_sha256(used)
        size = self._preparation.card.size
        probes = self.encode_all([np.zeros((3, *size), dtype=np.float32)])
        return tuple(
            self._make_card(checkpoint, weights, number, probe)
            for number, probe in zip(self._layers.numbers, probes, strict=True)
        )

    def _make_card(self, checkpoint: Checkpoint, weights: str, number: int, probe: ImageBatch) -> EncoderCard:
        rows, columns = self._grid
        if probe.tokens.shape[1] != rows * columns:
            raise EncoderError(
                "the model gives another number of patch tokens than its configuration says",
                where=checkpoint.model,
                found=f"{probe.tokens.shape[1]} tokens for a grid of {rows}x{columns}",
            )
        return EncoderCard(
            modality="image",
            library="transformers",
            architecture=type(self.model).__name__,
            model=checkpoint.model,
            revision=checkpoint.revision,
            weights_sha256=weights,
            layer=number,
            final_norm=number == LAST,
            width=probe.tokens.shape[2],
            pooled_width=probe.pooled.shape[1],
            pooling=self._family.pooled if number == LAST else "cls",
            grid=self._grid,
            prefix=self._prefix,
            registers=self._prefix - self._family.cls,
            processor=self._preparation.card,
            compute_dtype=self._dtype,
            device_kind=device_kind(self._device),
            versions=self._versions(),
        )

    def _versions(self) -> dict[str, str]:
        backend = ("torchvision",) if self._preparation.card.backend == "torchvision" else ()
        return library_versions("torch", "transformers", "pillow", *backend)


def load(
    checkpoint: Checkpoint,
    *,
    device: str,
    image_size: int | Size | None,
    dtype: str | None,
    backend: str | None,
    layers: Sequence[int] = (LAST,),
) -> HFImageEncoder:
    """Load an image model of a known family with its processor; `EncoderError` where it is none."""
    where = pick_device(device)
    config = read_config(checkpoint)
    family = choose_family(checkpoint, config, FAMILIES, "an image model")
    preparation = load_preparation(checkpoint, backend=backend, image_size=image_size)
    model = load_frozen(checkpoint, family.model, options=family.options, unused=family.unused)
    if image_size is not None:
        _check_size(preparation.card.size, _pair(model.config.patch_size))
    return HFImageEncoder(
        checkpoint, family, model, preparation, layers=layers, device=where, dtype=pick_dtype(dtype, where)
    )


def _check_size(size: Size, patch: Size) -> None:
    if size[0] % patch[0] or size[1] % patch[1]:
        low = max(1, size[0] // patch[0]) * patch[0]
        raise UsageError(
            "the image size must be a multiple of the patch size, or the border is left out",
            found=f"{size[0]}x{size[1]} with patches of {patch[0]}x{patch[1]}",
            todo=f"use --image-size {low} or {low + patch[0]}",
        )


def _pair(value: Any) -> Size:
    if isinstance(value, int):
        return value, value
    height, width = value
    return int(height), int(width)


def _submodule(model: Any, name: str) -> Any:
    """The submodule with this last name part; where it hangs differs between library versions."""
    return next(module for path, module in model.named_modules() if path.rpartition(".")[2] == name)
