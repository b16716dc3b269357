"""Pictures of scenes as the demo encoder's training sees them: views, patches and what to predict of them.

All arrays are torch tensors on the CPU; pictures are `(b, 3, h, w)` in 0 to 255. Every target is computed
from pixels; what is known about a scene is never used.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that everybody knows
from torch import Tensor

from embedstore.sources.scenes.draw import draw_picture
from embedstore.sources.scenes.world import sample_scene

if TYPE_CHECKING:
    from embedstore.sources.scenes.world import Scene

IMAGE_SIZE, PATCH = 112, 14
GRID = IMAGE_SIZE // PATCH
MEAN, STD = (0.5, 0.5, 0.5), (0.3, 0.3, 0.3)
_BINS = 8
TARGET_WIDTH = 3 * (PATCH // 2) ** 2 + _BINS
"""Channels of `patch_targets`."""
_WINDOW = 0.6
"""Side of the zoom, as a share of the picture's."""


def render(seed: int, start: int, count: int, size: int = IMAGE_SIZE) -> tuple[Tensor, list[Scene]]:
    """Pictures `(b, 3, size, size)` uint8 of consecutive scenes, and what is in them."""
    scenes = [sample_scene(seed, i) for i in range(start, start + count)]
    pixels = np.stack([np.asarray(draw_picture(s, size)) for s in scenes])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), scenes


def normalised(pixels: Tensor) -> Tensor:
    """uint8 or 0 to 255 float `(b, 3, h, w)` to the encoder's input, float32."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (pixels.float() / 255 - mean) / std


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """A slightly moved, turned and relit view, 0 to 255 float32."""
    b = len(pixels)

    def lot(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) - 0.5

    turn, zoom, shift = lot(b) * 0.2, 1 + lot(b) * 0.2, lot(b, 2) * 0.2
    cos, sin = torch.cos(turn) * zoom, torch.sin(turn) * zoom
    rows = [torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), [b, 3, *pixels.shape[2:]], align_corners=False)
    view = F.grid_sample(pixels.float(), grid, padding_mode="reflection", align_corners=False) - 128
    view = view * (1 + lot(b, 1, 1, 1) * 0.2) + lot(b, 1, 1, 1) * 20 + 128
    return view.clamp_(0, 255)


def lively_patches(views: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Positions `(b, k)` of a random share of the patches; patches with more contrast are likelier."""
    small = F.avg_pool2d(views, 4)
    across, down = (small[..., 1:] - small[..., :-1]).abs(), (small[:, :, 1:] - small[:, :, :-1]).abs()
    steps = (F.pad(across, (0, 1)) + F.pad(down, (0, 0, 0, 1))).mean(1, keepdim=True)
    energy = F.adaptive_avg_pool2d(steps, GRID).flatten(1)
    lots = torch.rand(energy.shape, generator=generator).clamp(1e-6, 1 - 1e-6)
    score = 2 * (energy / energy.mean(1, keepdim=True) + 0.1).log() - (-lots.log()).log()
    return score.topk(max(1, round(share * GRID**2)), dim=1).indices


def patches_of(field: Tensor) -> Tensor:
    """Cut `(b, c, h, w)` into the encoder's grid: `(b, t, c·h·w/t)`, row-major, channels first inside."""
    b, c, h, w = field.shape
    cut = field.reshape(b, c, GRID, h // GRID, GRID, w // GRID)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(b, GRID * GRID, -1)


def patch_targets(views: Tensor) -> Tensor:
    """What to predict of each patch, `(b, t, TARGET_WIDTH)`: coarse pixels, and shares of edge directions."""
    unit = F.avg_pool2d((views - 128) / 64, 2)
    edges = patches_of(F.avg_pool2d(edge_directions(unit), PATCH // 2))
    return torch.cat([patches_of(unit), 3 * edges / (0.5 + edges.norm(dim=2, keepdim=True))], 2)


def edge_directions(unit: Tensor) -> Tensor:
    """Strength of the grey gradient by direction, `(b, 8, h, w)`: 0 is an upright edge, 4 a level one."""
    grey = unit.mean(1, keepdim=True)
    dx = F.pad(grey[..., 2:] - grey[..., :-2], (1, 1))
    dy = F.pad(grey[:, :, 2:] - grey[:, :, :-2], (0, 0, 1, 1))
    bins = torch.remainder(torch.atan2(dy, dx), math.pi) * (_BINS / math.pi)
    strength = torch.sqrt(dx.square() + dy.square()) * 2
    hot = torch.cat([strength * (1 - (bins - k).abs()).clamp(min=0) for k in range(_BINS + 1)], 1)
    return torch.cat([hot[:, :1] + hot[:, _BINS:], hot[:, 1:_BINS]], 1)


def salience(pixels: Tensor) -> Tensor:
    """How far each pixel is from the plane of colours fitted to the picture, `(b, 1, h, w)`, 0 to 1.

    The fit is weighted twice towards pixels that it already explains, so it settles on the background.
    """
    b, _, h, w = pixels.shape
    y, x = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    basis = torch.stack([torch.ones_like(x), x, y], 2).reshape(-1, 3)
    colours = pixels.float().flatten(2).transpose(1, 2)
    rim = ((x.abs() > 0.9) | (y.abs() > 0.9)).float().flatten()
    weights = rim.expand(b, -1)
    away = torch.zeros(b, h * w)
    for _ in range(3):
        weighted = basis[None] * weights[:, :, None]
        gram = weighted.transpose(1, 2) @ basis + 1e-3 * torch.eye(3)
        plane = torch.linalg.solve(gram, weighted.transpose(1, 2) @ colours)
        away = (colours - basis @ plane).norm(dim=2)
        weights = torch.exp(-((away / 40) ** 2))
    return ((away / 100 - 0.25) / 0.75).clamp(0, 1).view(b, 1, h, w)


def zooms(pixels: Tensor, side: int = 64) -> tuple[Tensor, Tensor]:
    """The most salient part of each picture, centred: colours `(b, 3, side, side)` and salience."""
    found = salience(pixels)
    b = len(found)
    small = F.avg_pool2d(found, 4)
    across, reach = small.shape[3], round(0.225 * small.shape[3])
    peak = F.avg_pool2d(small, 2 * reach + 1, 1, reach).flatten(1).argmax(1).view(-1, 1, 1)
    y, x = torch.meshgrid(torch.arange(across), torch.arange(across), indexing="ij")
    near = ((y - peak // across).abs() <= reach) & ((x - peak % across).abs() <= reach)
    mass = small[:, 0] * near + 1e-6
    centre = [(mass * (2 * (v + 0.5) / across - 1)).sum((1, 2)) / mass.sum((1, 2)) for v in (x, y)]
    scale, none = torch.full((b,), _WINDOW), torch.zeros(b)
    rows = [torch.stack([scale, none, centre[0]], 1), torch.stack([none, scale, centre[1]], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), [b, 3, side, side], align_corners=False)
    cut = F.grid_sample(
        torch.cat([pixels.float(), found], 1), grid, padding_mode="border", align_corners=False
    )
    return cut[:, :3], cut[:, 3:]


def scene_codes(pixels: Tensor, width: int = 96) -> Tensor:
    """A description of each whole picture by its pixels, `(b, width)`, columns centred.

    Outline, edge directions and colours of the most salient part, and edge directions of the picture at two
    scales; each kind of number gets the same variance, then principal components, halfway whitened.
    """
    parts = [_raw_codes(part) for part in torch.split(pixels, 200)]
    blocks = [torch.cat(kind) for kind in zip(*parts, strict=True)]
    centred = [block - block.mean(0) for block in blocks]
    table = torch.cat([v / (v.square().sum(1).mean().sqrt() + 1e-6) for v in centred], 1)
    values, vectors = torch.linalg.eigh(table.T @ table)
    code: Tensor = (table @ vectors[:, -width:]) / values[-width:].clamp(min=1e-6) ** 0.25
    code /= code.square().mean().sqrt()
    return code


def _raw_codes(pixels: Tensor) -> list[Tensor]:
    zoom, outline = zooms(pixels)
    inside = (zoom - 128) / 64
    whole = F.avg_pool2d((pixels.float() - 128) / 64, 2)
    edges = edge_directions(inside) * outline
    seen = [
        F.adaptive_avg_pool2d(outline, 16),
        F.adaptive_avg_pool2d(edges, 4),
        F.adaptive_avg_pool2d(edges, 1),
        F.adaptive_avg_pool2d(inside * outline, 3),
        F.adaptive_avg_pool2d(edge_directions(whole), 3).sqrt(),
        F.adaptive_avg_pool2d(edge_directions(F.avg_pool2d(whole, 2)), 3).sqrt(),
    ]
    return [part.flatten(1) for part in seen]
