"""Class maps of pictures from their cached patches, upsampled, and the mask in the same geometry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from embedstore.encoders.placement import Placement, placement_of
from embedstore.errors import UsageError
from embedstore.heads.precision import full
from embedstore.sources.base import UNLABELLED
from embedstore.store.geometry import effective_policy
from embedstore.stream.embed import iter_images

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from embedstore.bench.setting import Setting
    from embedstore.shapes import AnyArray, ByteArray, Float32Array, IntArray
    from embedstore.store import Feature

PICTURES_AT_ONCE = 32
NO_CLASS = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureMaps:
    """One picture as the model sees it, without any border that its processor added.

    row: of the images table; maps `(c, h, w)` float32: cosines of the patches with each class, upsampled;
    truth `(h, w)` int16: the place of each pixel's class, -1 where it is of none; outside: pixels of the
    resized mask that the model does not see though they are of a class, of `labelled` in all, of `pixels`.
    """

    row: int
    maps: Tensor
    truth: AnyArray
    placement: Placement
    outside: int
    labelled: int
    pixels: int


def stored_grid(feature: Feature) -> tuple[int, int] | None:
    """Rows and columns of the stored patch tokens; none where they lie in no grid: merged, mean, imported."""
    grid = feature.card.grid
    fewer = effective_policy(feature.header.policy, feature.card).fewer_tokens
    if grid is None or "tokens" not in feature.arrays or fewer.merge or fewer.mean:
        return None
    return (-(-grid[0] // 2), -(-grid[1] // 2)) if fewer.pool else grid


def check_feature(feature: Feature) -> None:
    """`UsageError` for a feature whose patches are not known to lie anywhere in a picture."""
    if stored_grid(feature) is None or feature.card.processor is None:
        raise UsageError(
            "segmentation needs patch tokens on a grid",
            where=feature.name,
            found=f"policy {feature.header.policy}, grid {feature.card.grid}",
            allowed="policies that keep a token for each patch, or pool-2x2",
            todo="encode again, or recode from a feature that keeps them, or name another with --image",
        )
    if feature.card.view is not None:
        raise UsageError(
            "an augmented view shows another part of each picture than its mask",
            where=feature.name,
            found=feature.card.view.kind,
            todo="encode the pictures themselves",
        )


@torch.inference_mode()
def picture_maps(
    setting: Setting, rows: IntArray, goals: Float32Array, place_of: AnyArray
) -> Iterator[PictureMaps | None]:
    """The maps of each row in order, none for a row without a mask.

    goals `(c, e)`: unit vectors of the classes; place_of `(256,)` int16: the place among them of each value
    of a mask, -1 for one that does not count. Memory: one picture's maps beside a batch of patches.
    `UsageError` as of `check_feature`, `HeadError` of a head in which a single patch means nothing.
    """
    check_feature(setting.image)
    device = setting.head.device
    classes = torch.from_numpy(goals).to(device)
    with iter_images(setting.image, rows, batch=PICTURES_AT_ONCE) as stream:
        for batch in stream:
            part = batch.to(device)
            patches = setting.head.module.embed_patches(part.tokens, part.prefix, part.pooled, part.weights)
            with full(device):
                scores = (patches.float() @ classes.T).mT
            masks = setting.store.masks(part.rows)
            for row, of_picture, mask in zip(part.rows, scores, masks, strict=True):
                yield None if mask is None else _maps(setting.image, int(row), of_picture, mask, place_of)


def _maps(feature: Feature, row: int, scores: Tensor, mask: ByteArray, place_of: AnyArray) -> PictureMaps:
    """`scores (c, t)` of one picture."""
    card, grid = feature.card, stored_grid(feature)
    if grid is None or card.grid is None or card.processor is None:
        raise UsageError("segmentation needs patch tokens on a grid", where=feature.name)
    placement = placement_of(card.processor, (mask.shape[0], mask.shape[1]))
    whole = place_of[placement.resize(mask)]
    truth = whole[placement.seen]
    # Of an odd number of patches, the last pooled one reaches beyond the picture.
    cells = [n if grid == card.grid else 2 * n for n in grid]
    reach = [math.ceil(s * c / g) for s, c, g in zip(placement.size, cells, card.grid, strict=True)]
    maps = functional.interpolate(
        scores.reshape(1, -1, *grid), size=reach, mode="bilinear", align_corners=False
    )[0, :, : placement.size[0], : placement.size[1]]
    rows, columns = placement.inside
    labelled = int(np.count_nonzero(whole >= 0))
    return PictureMaps(
        row=row,
        maps=maps[:, rows, columns],
        truth=truth,
        placement=placement,
        outside=labelled - int(np.count_nonzero(truth >= 0)),
        labelled=labelled,
        pixels=whole.size,
    )


def places(values: list[int | None]) -> AnyArray:
    """What each value of a mask is `(256,)` int16: the place given for it, -1 for all others."""
    found = np.full(256, NO_CLASS, dtype=np.int16)
    for value, place in enumerate(values[:UNLABELLED]):
        found[value] = NO_CLASS if place is None else place
    return found
