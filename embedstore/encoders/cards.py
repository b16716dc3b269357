"""What identifies a model: the hash of its tensors and the versions of the libraries that run it."""

from __future__ import annotations

import hashlib
import platform
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable


def weights_sha256(tensors: Iterable[torch.Tensor]) -> str:
    """sha256 over dtype, shape and bytes of every tensor, sorted by these.

    Names are left out: libraries rename their modules from one version to the next (transformers did so for
    ViT), and the same checkpoint must stay the same model. Each tensor enters as a digest, so that several
    are hashed at once.
    """
    with ThreadPoolExecutor() as pool:
        lines = sorted(pool.map(_line, tensors))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _line(tensor: torch.Tensor) -> str:
    dtype, shape = str(tensor.dtype).removeprefix("torch."), "x".join(map(str, tensor.shape))
    return f"{dtype} {shape} {_digest(tensor)}"


def _digest(tensor: torch.Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()


def with_activation(architecture: str, model: torch.nn.Module) -> str:
    """An architecture's name, and how its GELU is computed where that is not the exact one.

    The same tensors give other numbers through another one, and neither their hash nor the class says which.
    """
    kinds = {"QuickGELU": "quick-gelu", "GELUTanh": "gelu-tanh"}
    found = {kinds.get(type(module).__name__) for module in model.modules()}
    if any(isinstance(module, torch.nn.GELU) and module.approximate == "tanh" for module in model.modules()):
        found.add("gelu-tanh")
    return "+".join([architecture, *sorted(kind for kind in found if kind is not None)])


def python_versions(*names: str) -> dict[str, str]:
    """The versions of an encoder of one's own: of Python, and of the distributions that run it."""
    return {"python": platform.python_version(), **library_versions(*names)}


def library_versions(*names: str) -> dict[str, str]:
    """Distribution name to its installed version."""
    return {name: version(name) for name in sorted(names)}
