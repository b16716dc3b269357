"""Image models of transformers; `hf_image_families` is the table of what is known.

Tokens of the last layer are the last hidden state after the final norm, patches only, row-major; CLS and
registers stand in the prefix with the same norm. A feature map is read as tokens row by row. Pooled is what
the library calls the picture's embedding. Tokens of another layer are as they leave its block, before any
final norm; their pooled embedding is that layer's CLS, or the mean of its tokens where there is none.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedstore.documents import EncoderCard
from embedstore.encoders.base import ImageBatch
from embedstore.encoders.cards import library_versions, weights_sha256
from embedstore.encoders.device import (
    ComputeType,
    device_kind,
    exactly,
    frozen_forward,
    pick_device,
    pick_dtype,
)
from embedstore.encoders.hf_image_families import FAMILIES
from embedstore.encoders.hf_model import choose_family, load_frozen, read_config
from embedstore.encoders.hf_processor import Preparation, Size, load_preparation
from embedstore.encoders.layers import LAST, Layers
from embedstore.encoders.probe import probe_pixels, summary
from embedstore.errors import EncoderError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image
    from torch import Tensor

    from embedstore.encoders.checkpoint import Checkpoint
    from embedstore.encoders.hf_image_families import ImageFamily
    from embedstore.shapes import Float32Array


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
        pooling: str | None,
        norm: bool,
        device: torch.device,
        dtype: ComputeType,
    ) -> None:
        self._family, self._preparation, self._device, self._dtype = family, preparation, device, dtype
        self.model = model.to(device)
        self._layers = Layers(model, layers, where=checkpoint.model)
        self._pooling = _checked_pooling(pooling, family)
        height, width = preparation.card.size
        patch, trained = _patch(family, model.config), _trained(model.config)
        self._grid = height // patch[0], width // patch[1]
        self._prefix = family.cls + int(getattr(model.config, "num_register_tokens", 0))
        self._options = (
            {"interpolate_pos_encoding": True} if family.interpolate and trained != (height, width) else {}
        )
        self._norm = _submodule(model, family.norm) if family.norm else None
        self._inner_norm = _inner_norm(self._norm, family) if norm else None
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
            output, seen = self._forward(batch.to(self._device, non_blocking=True))
            return tuple(self._batch(number, output, seen) for number in self._layers.numbers)

    def _forward(self, pixels: Tensor) -> tuple[Any, dict[int, Tensor]]:
        if not self._family.patches:
            return self._layers.run(self.model, pixel_values=pixels, **self._options)
        grid = torch.tensor(self._grid, device=pixels.device)
        patches = _flat_patches(pixels, self._grid)
        return self._layers.run(
            self.model,
            pixel_values=patches,
            pixel_attention_mask=torch.ones(patches.shape[:2], dtype=torch.int32, device=pixels.device),
            spatial_shapes=grid.expand(len(pixels), 2),
        )

    def _batch(self, number: int, output: Any, seen: dict[int, Tensor]) -> ImageBatch:
        """The feature of one layer."""
        hidden, skip = self._hidden(number, output, seen), self._family.skip if number == LAST else 0
        if hidden.ndim == 4:
            prefix, tokens = None, hidden.flatten(2).transpose(1, 2)
        else:
            first = skip + self._prefix
            prefix, tokens = hidden[:, skip:first] if self._prefix else None, hidden[:, first:]
        pooling = self._pooling_of(number)
        if pooling == "cls" and prefix is not None:
            pooled = prefix[:, 0]
        elif pooling == "mean":
            pooled = tokens.float().mean(1)
        else:
            pooled = output.image_embeds if pooling == "image_embeds" else output.pooler_output
        return ImageBatch(tokens=tokens, prefix=prefix, pooled=pooled)

    def _hidden(self, number: int, output: Any, seen: dict[int, Tensor]) -> Tensor:
        if number != LAST:
            return seen[number] if self._inner_norm is None else self._inner_norm(seen[number])
        hidden: Tensor = output.last_hidden_state
        return hidden if self._norm is None or self._family.passed else self._norm(hidden)

    def _pooling_of(self, number: int) -> str:
        """What the pooled embedding of a layer is: the library knows one of the last layer alone."""
        inner = "cls" if self._family.cls else "mean"
        return self._pooling or (self._family.pooled if number == LAST else inner)

    def _make_cards(self, checkpoint: Checkpoint) -> tuple[EncoderCard, ...]:
        """Every width is read from one forward pass, which must agree with the configuration."""
        unused = set(self._family.unused)
        used = [tensor for name, tensor in self.model.state_dict().items() if name not in unused]
        weights = weights_sha256(used)
        shown = torch.from_numpy(probe_pixels(self._preparation.card.size)[None]).to(self._device)
        with exactly(), frozen_forward(self._device, self._dtype):
            output, seen = self._forward(shown)
            return tuple(
                self._make_card(checkpoint, weights, number, output, seen) for number in self._layers.numbers
            )

    def _make_card(
        self, checkpoint: Checkpoint, weights: str, number: int, output: Any, seen: dict[int, Tensor]
    ) -> EncoderCard:
        hidden, probe = self._hidden(number, output, seen), self._batch(number, output, seen)
        is_map = hidden.ndim == 4
        rows, columns = (hidden.shape[2], hidden.shape[3]) if is_map else self._grid
        if probe.tokens.shape[1] != rows * columns:
            raise EncoderError(
                "the model gives another number of patch tokens than its configuration says",
                where=checkpoint.model,
                found=f"{probe.tokens.shape[1]} tokens for a grid of {rows}x{columns}",
            )
        prefix = 0 if is_map else self._prefix
        return EncoderCard(
            modality="image",
            library="transformers",
            architecture=type(self.model).__name__,
            model=checkpoint.model,
            revision=checkpoint.revision,
            weights_sha256=weights,
            layer=number,
            final_norm=self._family.normed if number == LAST else self._inner_norm is not None,
            width=probe.tokens.shape[2],
            pooled_width=probe.pooled.shape[1],
            pooling=self._pooling_of(number),
            grid=(rows, columns),
            prefix=prefix,
            registers=max(0, prefix - self._family.cls),
            positions=self._positions(),
            probe=summary(probe),
            processor=self._preparation.card,
            compute_dtype=self._dtype,
            device_kind=device_kind(self._device),
            versions=self._versions(),
        )

    def _positions(self) -> str | None:
        """How positions were fitted to a size that was asked for and is not the checkpoint's own."""
        if self._preparation.card.size == self._preparation.own_size or self._family.positions == "none":
            return None
        if self._family.positions == "rotary":
            return "rotary"
        config, patch = self.model.config, _patch(self._family, self.model.config)
        side = math.isqrt(config.num_patches) * patch[0] if self._family.patches else config.image_size
        height, width = _pair(side)
        rows, columns = height // patch[0], width // patch[1]
        return None if (rows, columns) == self._grid else f"interpolated from {rows}x{columns}"

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
    pooling: str | None = None,
    norm: bool = False,
) -> HFImageEncoder:
    """Load an image model of a known family with its processor; `EncoderError` where it is none."""
    where = pick_device(device)
    config = read_config(checkpoint)
    family = choose_family(checkpoint, config, FAMILIES, "an image model")
    preparation = load_preparation(checkpoint, backend=backend, image_size=image_size)
    model = load_frozen(checkpoint, family.model, options=family.options, unused=family.unused)
    family = family.adapt(family, model.config)
    if image_size is not None:
        _check_size(preparation.card.size, _patch(family, model.config))
    return HFImageEncoder(
        checkpoint,
        family,
        model,
        preparation,
        layers=layers,
        pooling=pooling,
        norm=norm,
        device=where,
        dtype=pick_dtype(dtype, where),
    )


def _inner_norm(norm: Any, family: ImageFamily) -> Any:
    if norm is None:
        raise UsageError(
            "the model has no final norm for tokens", where="norm", found=family.model, todo="leave it out"
        )
    return norm


def _checked_pooling(pooling: str | None, family: ImageFamily) -> str | None:
    allowed = ["cls", "mean"] if family.cls else ["mean"]
    if pooling is not None and pooling not in allowed:
        raise UsageError(
            "the model has no such pooled embedding",
            where="pooling",
            found=pooling,
            allowed=", ".join(allowed),
            todo=f"leave it out for the library's own: {family.pooled}",
        )
    return pooling


def _patch(family: ImageFamily, config: Any) -> Size:
    """Pixels of one token of the last layer."""
    return _pair(family.stride or config.patch_size)


def _trained(config: Any) -> Size | None:
    size = getattr(config, "image_size", None)
    return None if size is None else _pair(size)


def _flat_patches(pixels: Tensor, grid: Size) -> Tensor:
    """`(b, c, h, w)` to flat patches `(b, t, p·p·c)`, row-major, channels last."""
    batch, channels, height, width = pixels.shape
    rows, columns = grid
    cut = pixels.reshape(batch, channels, rows, height // rows, columns, width // columns)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, -1)


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
