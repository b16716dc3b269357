"""Large buffers that are used again: on a CPU, touching fresh pages costs more than filling them."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

KEPT_PER_SIZE = 4
KEPT_SIZES = 8


class BufferPool:
    """Uninitialised CPU tensors that are used again by what asks for the same size; a few of each are kept.

    A CUDA device has a caching allocator of its own: there `take` is `torch.empty` and `give` does nothing.
    Tensors born in inference mode are kept apart, since no graph may touch them.
    A buffer that is never given back is simply garbage. Thread-safe.
    """

    def __init__(self) -> None:
        self._free: dict[tuple[int, torch.dtype, bool], list[Tensor]] = {}
        self._lock = threading.Lock()

    def take(self, *shape: int, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """A contiguous tensor of `shape` with the device and (unless `dtype`) type of `like`."""
        dtype = dtype or like.dtype
        size = torch.Size(shape)
        key = (size.numel(), dtype, torch.is_inference_mode_enabled())
        with self._lock:
            if like.device.type == "cpu" and (free := self._free.get(key)):
                return free.pop().view(size)
        return torch.empty(size, dtype=dtype, device=like.device)

    def give(self, *buffers: Tensor) -> None:
        """Hand buffers back; the caller holds no view of them any more."""
        for buffer in buffers:
            if buffer.device.type != "cpu":
                continue
            key = (buffer.numel(), buffer.dtype, buffer.is_inference())
            # Texts make a new size every batch, so the table is kept short, the oldest size leaving first.
            with self._lock:
                free = self._free[key] = self._free.pop(key, [])
                if len(free) < KEPT_PER_SIZE:
                    free.append(buffer)
                while len(self._free) > KEPT_SIZES:
                    del self._free[next(iter(self._free))]

    def clear(self) -> None:
        """Let go of everything that is kept."""
        with self._lock:
            self._free.clear()


POOL = BufferPool()


@contextmanager
def converted(tokens: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """`tokens` themselves where they have this type, else a copy that is gone when the block ends."""
    if tokens.dtype == dtype or torch.compiler.is_compiling():
        yield tokens.to(dtype)
        return
    buffer = POOL.take(*tokens.shape, like=tokens, dtype=dtype)
    yield buffer.copy_(tokens)
    POOL.give(buffer)
