"""Torch's generators for one step of a fit: a state that follows from the seed and the step alone.

So nothing of it has to be kept for a fit that goes on later, or for heads that learn side by side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from embedstore.stream.choice import counter_random

if TYPE_CHECKING:
    from collections.abc import Sequence

_STEPS = 1 << 41


def generators(device: torch.device) -> list[torch.Generator]:
    """Those that a head on a device draws from: the host's, and the device's own where it has one."""
    found: list[torch.Generator] = [torch.default_generator]
    if device.type == "cuda":
        found.append(torch.cuda.default_generators[torch.empty(0, device=device).get_device()])
    return found


def seed_generators(some: Sequence[torch.Generator], key: int) -> None:
    """Set them all to a state, in microseconds.

    `torch.manual_seed` would take milliseconds: it keeps a stack for each kind of device not used yet.
    """
    for generator in some:
        generator.manual_seed(key & (2**63 - 1))


def seed_step(some: Sequence[torch.Generator], *, seed: int, step: int) -> None:
    """Set them to the state in which step number `step`, from 0, of a fit with this `seed` begins."""
    seed_generators(some, int(counter_random(seed, 0, np.array([_STEPS + step]))[0]))
