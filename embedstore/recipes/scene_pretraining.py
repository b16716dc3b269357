"""Self-supervised training of the demo encoder: the network, its two losses and the loop.

* **patches**: the encoder sees a share of the patches; a small decoder, thrown away afterwards, predicts
  coarse pixels and edge directions of all of them (after masked autoencoding, He et al. 2022, with gradient
  histograms among the targets as in MaskFeat, Wei et al. 2022);
* **whole**: one linear layer on the mean of the tokens predicts a description of the whole picture that is
  computed from its pixels: outline, edge directions and colours of its most salient part, and the texture of
  everything (`scene_views.scene_codes`), as in masked feature prediction, but once a picture.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from embedstore.errors import UsageError
from embedstore.recipes.scene_views import (
    GRID,
    IMAGE_SIZE,
    PATCH,
    TARGET_WIDTH,
    augment,
    lively_patches,
    normalised,
    patch_targets,
    patches_of,
    render,
    scene_codes,
)

if TYPE_CHECKING:
    from collections.abc import Callable

CODE_WIDTH = 96
Encoder: TypeAlias = Any
"""A transformers `Dinov2Model`; the library is untyped here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How to train; the defaults made the shipped weights."""

    steps: int = 1500
    batch_size: int = 64
    scenes: int = 6000
    """Pictures rendered once and kept in memory, 37.6 KB each."""
    seed: int = 20_000
    """Seed of the training scenes and of all random numbers."""
    visible: float = 0.5
    """Share of the patches that the encoder sees in most steps; those with more contrast are likelier."""
    unhidden: float = 0.2
    """Share of the steps in which it sees all of them, as it will later."""
    lr: float = 2e-3
    whole: float = 1.0
    """Weight of the whole-picture loss beside the patch loss."""
    width: int = 128
    layers: int = 5
    heads: int = 4
    mlp_ratio: int = 3


def check(config: TrainConfig) -> None:
    """Raise `UsageError` for options that no run could accept."""
    limits: dict[str, tuple[float, float]] = {
        "steps": (1, 10**7),
        "seed": (0, 2**63 - 1),
        "batch_size": (2, config.scenes),
        "visible": (1 / GRID**2, 1),
        "unhidden": (0, 1),
        "heads": (1, 64),
        "width": (4 * config.heads, 4096),
        "layers": (1, 48),
    }
    for name, (low, high) in limits.items():
        value = getattr(config, name)
        if not low <= value <= high:
            where = f"--{name.replace('_', '-')}"
            raise UsageError(
                "the value is out of range", where=where, found=value, allowed=f"{low} to {high}"
            )
    if config.width % (4 * config.heads):
        raise UsageError(
            "the width cannot be shared out",
            where="--width",
            found=config.width,
            allowed=f"multiples of 4 × heads = {4 * config.heads}",
        )


def new_encoder(config: TrainConfig) -> Encoder:
    """A `Dinov2Model` with random weights and sine-cosine positions (which are trained on)."""
    from transformers import Dinov2Config, Dinov2Model

    model = Dinov2Model(
        Dinov2Config(
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            mlp_ratio=config.mlp_ratio,
            image_size=IMAGE_SIZE,
            patch_size=PATCH,
        )
    )
    with torch.no_grad():
        positions = _sine_positions(GRID, config.width)
        model.embeddings.position_embeddings[0, 1:] = positions
        model.embeddings.position_embeddings[0, 0] = 0
    return model


def start_from_patches(encoder: Encoder, pixels: Tensor, generator: torch.Generator) -> None:
    """Set the patch embedding to the leading principal components of patches, nearly whitened."""
    rows = torch.randperm(len(pixels), generator=generator)[:1000]
    patches = patches_of(normalised(pixels[rows])).flatten(0, 1).double()
    centre = patches.mean(0)
    values, vectors = torch.linalg.eigh((patches - centre).T @ (patches - centre) / len(patches))
    layer = encoder.embeddings.patch_embeddings.projection
    width = layer.weight.shape[0]
    basis = vectors.flip(1)[:, :width] / (values.flip(0)[:width].clamp(min=0) + 0.02).sqrt()
    with torch.no_grad():
        layer.weight.copy_(0.7 * basis.T.reshape(layer.weight.shape))
        layer.bias.copy_(-0.7 * (centre @ basis))


class Task(nn.Module):
    """The encoder with what only training needs: decoder and projectors."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        width, narrow, self.config = config.width, 96, config
        self.encoder: Encoder = new_encoder(config)
        self.to_decoder = nn.Linear(width, narrow)
        self.hidden_token = nn.Parameter(torch.zeros(1, 1, narrow))
        self.register_buffer("positions", _sine_positions(GRID, narrow)[None], persistent=False)
        self.decoder = nn.ModuleList(
            nn.TransformerEncoderLayer(narrow, 4, 3 * narrow, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(1)
        )
        self.predict = nn.Sequential(nn.LayerNorm(narrow), nn.Linear(narrow, TARGET_WIDTH))
        self.describe = nn.Linear(width, CODE_WIDTH)

    positions: Tensor

    def visible_tokens(self, images: Tensor, keep: Tensor) -> Tensor:
        """Encoder output `(b, 1 + k, d)`: CLS, then the patches named by `keep` `(b, k)`."""
        tokens = self.encoder.embeddings(images)
        kept = torch.gather(tokens[:, 1:], 1, keep[:, :, None].expand(-1, -1, tokens.shape[2]))
        hidden = torch.cat([tokens[:, :1], kept], 1)
        for layer in self.encoder.encoder.layer:
            hidden = layer(hidden)
        return self.encoder.layernorm(hidden)  # type: ignore[no-any-return]

    def decoded(self, tokens: Tensor, keep: Tensor) -> Tensor:
        """Predicted targets of all patches, `(b, t, c)`."""
        small = self.to_decoder(tokens)
        field = self.hidden_token.expand(len(tokens), GRID**2, -1)
        field = field.scatter(1, keep[:, :, None].expand(-1, -1, small.shape[2]), small[:, 1:])
        hidden = torch.cat([small[:, :1], field + self.positions], 1)
        for layer in self.decoder:
            hidden = layer(hidden)
        return self.predict(hidden[:, 1:])  # type: ignore[no-any-return]

    def forward(self, pixels: Tensor, codes: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of one batch of pictures `(b, 3, h, w)` uint8 and their codes `(b, c)`."""
        views = augment(pixels, generator)
        everything = float(torch.rand((), generator=generator)) < self.config.unhidden
        keep = lively_patches(views, 1.0 if everything else self.config.visible, generator)
        tokens = self.visible_tokens(normalised(views), keep)
        patches = (self.decoded(tokens, keep) - patch_targets(views)).square().mean()
        whole = (self.describe(tokens[:, 1:].mean(1)) - codes).square().mean()
        return {"loss": patches + self.config.whole * whole, "patches": patches, "whole": whole}


def _sine_positions(grid: int, width: int) -> Tensor:
    """`(t, width)` float32: a quarter of the channels each for sine and cosine of column and row."""
    rates = 1 / 100 ** (torch.arange(width // 4) / (width // 4))
    phase = torch.arange(grid)[:, None] * rates[None]
    line = torch.cat([phase.sin(), phase.cos()], 1)
    columns, rows = line[None].expand(grid, -1, -1), line[:, None].expand(-1, grid, -1)
    return torch.cat([columns, rows], 2).reshape(grid * grid, width) * 0.5


def train(config: TrainConfig, say: Callable[[str], None]) -> Encoder:
    """The trained encoder, in evaluation mode. The same config gives the same steps."""
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    pixels, _ = render(config.seed, 0, config.scenes)
    codes = scene_codes(pixels, CODE_WIDTH)
    task = Task(config)
    start_from_patches(task.encoder, pixels, generator)
    decayed = [p for p in task.parameters() if p.ndim > 1]
    rest = [p for p in task.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.95))
    warm = max(1, config.steps // 15)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda i: min((i + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * min(1.0, i / config.steps))),
    )
    task.train()
    for step in range(config.steps):
        rows = torch.randperm(len(pixels), generator=generator)[: config.batch_size]
        losses = task(pixels[rows], codes[rows], generator)
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 25 == 0 or step == config.steps - 1:
            say(json.dumps({"step": step + 1, **{k: round(v.item(), 4) for k, v in losses.items()}}))
    return task.encoder.eval()
