"""Several processes that fit one head together: who this one is, and what all of them exchange.

Every process embeds its part of each batch, meets all embeddings of the batch in the loss, and has the
gradient that comes through its own part; the sum over the processes is the gradient of the whole batch.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from embedstore.encoders.device import pick_device
from embedstore.errors import EmbedstoreError, EngineError, ToldError, UsageError
from embedstore.losses.shared import Workers, evaluated_by
from embedstore.stream.share import Share

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from embedstore.shapes import IntArray

T = TypeVar("T")

TIMEOUT = timedelta(hours=1)
_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """The embeddings of a whole batch, with what a loss must know of its texts; see `World.whole_batch`."""

    image: Tensor
    text: Tensor
    owner: IntArray | None
    words: IntArray | None


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Process `rank` of `size`, on its own `device`; methods are called by all of them, in the same order.

    Tensors on a GPU go by NCCL, others by gloo. `EngineError` where another process has ended, or has not
    come to the same point within an hour.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def share(self) -> Share:
        """This process's part of every batch."""
        return Share(rank=self.rank, world=self.size)

    @property
    def speaks(self) -> bool:
        """Whether it is the one that logs, validates and writes."""
        return self.rank == 0

    def total(self, x: Tensor) -> None:
        """Replace a tensor by its sum over all processes, the same to the bit on each."""
        with self._together():
            dist.all_reduce(x)

    def total_with_gradient(self, x: Tensor) -> Tensor:
        """The sum over all processes, whose gradient is that of all of them."""
        found: Tensor = _Total.apply(x, self)
        return found

    def parts(self, x: Tensor) -> Tensor:
        """`(…)` of each process, all of one shape, to `(size, …)`."""
        found = x.new_empty(self.size, *x.shape)
        with self._together():
            dist.all_gather(list(found.unbind()), x.contiguous())
        return found

    def first(self, make: Callable[[], T]) -> T:
        """What `make` gives on the first process, which alone calls it, to all of them."""
        found: list[Any] = [make() if self.speaks else None]
        with self._together():
            dist.broadcast_object_list(found, device=torch.device("cpu"))
        value: T = found[0]
        return value

    def any(self, here: bool) -> bool:  # noqa: FBT001 - reads as the builtin does
        """Whether it is so on some process."""
        found = torch.tensor([float(here)])
        self.total(found)
        return bool(found)

    def start_alike(self, module: torch.nn.Module) -> None:
        """Give every process the first one's weights and buffers."""
        with self._together():
            for x in module.state_dict().values():
                dist.broadcast(x, 0)

    def refuse_other(self, what: str) -> None:
        """`UsageError` where the processes were not told to do the same, by a string that says what."""
        found: list[Any] = [None] * self.size
        with self._together():
            dist.all_gather_object(found, what)
        if len(set(found)) > 1:
            raise UsageError(
                "the processes were told to fit different heads",
                found=f"{len(set(found))} different configurations, stores or versions of torch",
                todo="start all of them with the same command",
            )

    def sum_gradients(self, head: Iterable[Tensor], alike: Iterable[Tensor]) -> None:
        """Give each parameter the gradient of the whole batch, the same to the bit on every process.

        Of `head` each process has a part; of the parameters `alike` every one has the whole already.
        """
        shared = [p.grad for p in alike if p.grad is not None]
        for grad in shared:
            grad.div_(self.size)
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for grad in [*(p.grad for p in head if p.grad is not None), *shared]:
            by_type.setdefault(grad.dtype, []).append(grad)
        for grads in by_type.values():
            flat = torch.cat([grad.reshape(-1) for grad in grads])
            self.total(flat)
            for grad, part in zip(grads, torch.split(flat, [g.numel() for g in grads]), strict=True):
                grad.copy_(part.view_as(grad))

    @contextmanager
    def whole_batch(
        self, image: Tensor, text: Tensor, owner: IntArray | None, words: IntArray | None
    ) -> Iterator[Whole]:
        """All embeddings of a batch, in the order of the ranks; losses inside are evaluated together.

        Own ones `(b, e)` and `(m, e)`, as many as there are; `owner` and `words` (m,) the picture and the
        words of each own text. The gradient of the whole goes to the own ones.
        """
        counts = self.parts(torch.tensor([len(image), len(text)]))
        pictures, texts = counts.unbind(1)
        first = int(pictures[: self.rank].sum())
        workers = Workers(
            rank=self.rank, world=self.size, first=first, last=first + len(image), total=self.total
        )
        with evaluated_by(workers):
            yield Whole(
                image=_Gathered.apply(image, self, pictures.tolist()),
                text=_Gathered.apply(text, self, texts.tolist()),
                owner=None if owner is None else self._numbers(owner + first, texts.tolist()),
                words=None if words is None else self._numbers(words, texts.tolist()),
            )

    def joined(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        """`(counts[rank], …)` of each process, one after the other."""
        padded = x.new_zeros(max(counts), *x.shape[1:])
        padded[: len(x)] = x
        return torch.cat([part[:count] for part, count in zip(self.parts(padded), counts, strict=True)])

    def _numbers(self, x: IntArray, counts: Sequence[int]) -> IntArray:
        found: IntArray = self.joined(torch.from_numpy(np.ascontiguousarray(x)), counts).numpy()
        return found

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as bad:
            raise _lost(bad) from bad


def for_all(world: World | None, make: Callable[[], T]) -> T:
    """What `make` gives; of several processes the first one's to all of them."""
    return make() if world is None else world.first(make)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, world: World) -> Tensor:
        ctx.world = world
        total = x.clone()
        world.total(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.clone(memory_format=torch.contiguous_format)
        ctx.world.total(total)
        return total, None


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, world: World, counts: Sequence[int]) -> Tensor:
        first = sum(counts[: world.rank])
        ctx.own = slice(first, first + len(x))
        return world.joined(x, counts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        # Every process has the whole loss, so that the gradient of the own rows is complete here.
        return grad[ctx.own].contiguous(), None, None


@contextmanager
def torchrun_world(device: str = "auto") -> Iterator[World | None]:
    """The processes that torchrun has started this one among; none, and no cost, where it has not.

    `device` as of `pick_device`, without a number: on GPUs each process takes that of its LOCAL_RANK.
    `UsageError` for more processes than GPUs. An error that several of them meet is told by one: on the
    others it is a `ToldError`.
    """
    if not all(name in os.environ for name in _LAUNCHED):
        yield None
        return
    place = _own_device(device)
    try:
        store, rank, size = next(rendezvous("env://", timeout=TIMEOUT))
    except (RuntimeError, ValueError) as bad:
        raise _lost(bad) from bad
    try:
        world = _join(store, rank=rank, size=size, device=place)
        yield world
        # One that left sooner would look like one that died.
        world.total(torch.zeros(1))
    except (EmbedstoreError, OSError, KeyboardInterrupt) as error:
        if not _first_to_tell(store):
            raise ToldError("another process has told", found=str(error)) from error
        raise
    # Not after an error: the others may be waiting for this process, which must end.
    dist.destroy_process_group()


def _join(store: Store, *, rank: int, size: int, device: torch.device) -> World:
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(
            backend, store=PrefixStore("fit", store), rank=rank, world_size=size, timeout=TIMEOUT
        )
    except (RuntimeError, ValueError) as bad:
        raise _lost(bad) from bad
    return World(rank=rank, size=size, device=device)


def _lost(bad: Exception) -> EngineError:
    return EngineError(
        "the processes of this fit do not find each other, or have lost each other",
        where=f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']}",
        found=str(bad).strip().splitlines()[0][:200],
        todo="see what the other processes say; one that ran out of memory says nothing",
    )


def _own_device(name: str) -> torch.device:
    local = int(os.environ.get("LOCAL_RANK", "0"))
    place = pick_device(name)
    if place.type == "mps":
        if name != "auto":
            raise UsageError("torchrun's processes cannot share this device", found=name, allowed="cpu, cuda")
        return torch.device("cpu")
    if place.type != "cuda":
        return place
    if ":" in name:
        raise UsageError(
            "each process takes the GPU of its own number", found=name, todo="take --device cuda"
        )
    there = torch.cuda.device_count()
    if local >= there:
        raise UsageError(
            "more processes than GPUs",
            found=f"process {local} on this machine, GPUs {there}",
            todo=f"take --nproc-per-node {there}, or --device cpu",
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def _first_to_tell(store: Store) -> bool:
    try:
        return int(store.add("told", 1)) == 1
    except RuntimeError:
        return True
