"""What stays in float32 while a head is evaluated in a half precision under `torch.autocast`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """`x` in float32 or its own wider type."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def unit(x: Tensor) -> Tensor:
    """Unit vectors along the last axis, in float32 or wider."""
    return functional.normalize(wide(x), dim=-1)


def full(device: torch.device) -> torch.autocast:
    """Inside, products are of the type that their factors have, also where autocast is on."""
    return torch.autocast(device.type, enabled=False)


def product_dtype(weights: Tensor) -> torch.dtype:
    """The type in which autocast would multiply by these weights: their own where it is off."""
    kind = weights.device.type
    if weights.dtype == torch.float32 and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return weights.dtype
