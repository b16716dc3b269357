"""What identifies a model: the hash of its tensors and the versions of the libraries that run it."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping


def weights_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 over name, dtype, shape and bytes of every tensor, in the order of their names.

    The bytes enter as a digest per tensor, so that several tensors are hashed at once.
    """
    names = sorted(tensors)
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(lambda name: _digest(tensors[name]), names))
    whole = hashlib.sha256()
    for name, digest in zip(names, digests, strict=True):
        tensor = tensors[name]
        dtype = str(tensor.dtype).removeprefix("torch.")
        whole.update(f"{name}\0{dtype}\0{tuple(tensor.shape)}\0".encode())
        whole.update(digest)
    return whole.hexdigest()


def _digest(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).digest()


def library_versions(*names: str) -> dict[str, str]:
    """Distribution name to its installed version."""
    return {name: version(name) for name in sorted(names)}
