"""Sums over all negatives of a batch, block of pictures by block, so that no matrix of logits is held.

Each is a small autograd function: its backward pass makes the blocks again. Peak memory is a few blocks
beside the embeddings, whatever the batch. Where several processes evaluate a loss (`losses.shared`) each
makes the blocks of its own pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from embedstore.losses.shared import total_of, workers_now

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedstore.losses.base import Pairing
    from embedstore.losses.shared import Workers

BLOCK_CPU = 1 << 22
BLOCK_GPU = 1 << 26


@dataclass(frozen=True, slots=True, kw_only=True)
class Negatives:
    """What is a negative of what among `b` pictures and `m` texts, and how many pictures a block has."""

    owner: Tensor
    words: Tensor | None
    different: int
    rows: int
    workers: Workers | None = None

    @classmethod
    def of(cls, image: Tensor, text: Tensor, pairing: Pairing | None, rows: int | None = None) -> Negatives:
        """`rows` of a block; none: as many as make a block of a few MiB (a GPU: a few hundred)."""
        most = BLOCK_GPU if image.device.type == "cuda" else BLOCK_CPU
        owner = torch.arange(len(text), device=image.device) if pairing is None else pairing.owner
        words, different = None, 0
        if pairing is not None and pairing.words is not None:
            found, words = torch.unique(pairing.words, return_inverse=True)
            different = len(found)
        return cls(
            owner=owner,
            words=words,
            different=different,
            rows=rows or max(1, most // len(text)),
            workers=workers_now(),
        )

    def blocks(self, pictures: int) -> Iterator[slice]:
        """The pictures of this process block by block."""
        first, last = (0, pictures) if self.workers is None else (self.workers.first, self.workers.last)
        return (slice(i, min(i + self.rows, last)) for i in range(first, last, self.rows))

    def rooms(self, image: Tensor, text: Tensor, count: int = 1) -> list[Tensor]:
        """Room for the logits of a block, used again for every block: allocators keep what they give back."""
        rows = min(self.rows, len(image))
        return [image.new_empty(rows, len(text)) for _ in range(count)]

    def room_of(self, image: Tensor) -> Tensor:
        """Room for the pictures' gradient, zeros where other processes have it."""
        return torch.empty_like(image) if self.workers is None else torch.zeros_like(image)

    def shared_gradients(self, text: Tensor, *numbers: Tensor) -> tuple[Tensor, ...]:
        """Sum the texts' gradient over all processes, in place, and scalars too: these."""
        if self.workers is not None:
            self.workers.total(text)
        return total_of(self.workers, *numbers)

    def strike(self, logits: Tensor, first: int) -> Tensor:
        """Set what is no negative to minus infinity, in place; how many that are, as a number on the device.

        `logits (k, m)` of the pictures from row `first` on.
        """
        mine = torch.nonzero((self.owner >= first) & (self.owner < first + len(logits))).squeeze(1)
        rows = self.owner[mine] - first
        if self.words is None:
            logits[rows, mine] = -torch.inf
            return torch.tensor(len(mine), device=logits.device)
        said = torch.zeros(len(logits), self.different, dtype=torch.bool, device=logits.device)
        said[rows, self.words[mine]] = True
        same = said[:, self.words]
        logits.masked_fill_(same, -torch.inf)
        return same.sum()


def product(image: Tensor, text: Tensor, room: Tensor) -> Tensor:
    """The cosines of a block, in a room for it."""
    return torch.mm(image, text.T, out=room[: len(image)])


def inner(a: Tensor, b: Tensor) -> Tensor:
    """The sum of products `(b, e)`, in float64: of embeddings and their gradient it is the scale's."""
    return torch.einsum("be,be->b", a, b).sum(dtype=torch.float64)


class _NegativeLse(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, image: Tensor, text: Tensor, scale: Tensor, negatives: Negatives
    ) -> tuple[Tensor, Tensor]:
        rows = image.new_empty(len(image))
        columns = image.new_full((len(text),), -torch.inf)
        (room,) = negatives.rooms(image, text)
        for part in negatives.blocks(len(image)):
            logits = product(image[part], text, room).mul_(scale)
            negatives.strike(logits, part.start)
            torch.logsumexp(logits, 1, out=rows[part])
            columns = torch.logaddexp(columns, torch.logsumexp(logits, 0))
        if negatives.workers is not None:
            rows, columns = negatives.workers.log_sums(rows, columns)
        ctx.save_for_backward(image, text, scale, rows, columns)
        ctx.negatives = negatives
        return rows, columns

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_rows: Tensor, of_columns: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        image, text, scale, rows, columns = ctx.saved_tensors
        # Where there is no negative both the logits and their sum are minus infinity; the weight is 0.
        rows, columns = rows.nan_to_num(neginf=0.0), columns.nan_to_num(neginf=0.0)
        image_grad, text_grad = ctx.negatives.room_of(image), torch.zeros_like(text)
        room, other = ctx.negatives.rooms(image, text, 2)
        for part in ctx.negatives.blocks(len(image)):
            logits = product(image[part], text, room).mul_(scale)
            ctx.negatives.strike(logits, part.start)
            weights = torch.sub(logits, rows[part, None], out=other[: len(logits)])
            weights.exp_().mul_(of_rows[part, None])
            weights += logits.sub_(columns).exp_().mul_(of_columns)
            torch.mm(weights, text, out=image_grad[part])
            text_grad.addmm_(weights.T, image[part])
        (scale_grad,) = ctx.negatives.shared_gradients(text_grad, inner(image, image_grad))
        return image_grad.mul_(scale), text_grad.mul_(scale), scale_grad.to(scale), None


def negative_lse(image: Tensor, text: Tensor, scale: Tensor, negatives: Negatives) -> tuple[Tensor, Tensor]:
    """`log Σ exp(scale · cosine)` over the negatives of each picture `(b,)` and of each text `(m,)`.

    Minus infinity where there are none. `image (b, e)`, `text (m, e)`, `scale` a number; once differentiable.
    """
    found: tuple[Tensor, Tensor] = _NegativeLse.apply(image, text, scale, negatives)
    return found


class _NegativeSoftplus(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by place
        ctx: Any, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, negatives: Negatives
    ) -> tuple[Tensor, Tensor]:
        total = torch.zeros((), dtype=torch.float64, device=image.device)
        struck = torch.zeros((), dtype=torch.int64, device=image.device)
        (room,) = negatives.rooms(image, text)
        for part in negatives.blocks(len(image)):
            logits = product(image[part], text, room).mul_(scale).add_(bias)
            struck += negatives.strike(logits, part.start)
            total += functional.softplus(logits).sum(1).sum(dtype=torch.float64)
        total, struck = total_of(negatives.workers, total, struck)
        count = len(image) * len(text) - struck.long()
        ctx.save_for_backward(image, text, scale, bias)
        ctx.negatives = negatives
        ctx.mark_non_differentiable(count)
        return total.to(image.dtype), count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_total: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        image, text, scale, bias = ctx.saved_tensors
        image_grad, text_grad = ctx.negatives.room_of(image), torch.zeros_like(text)
        bias_grad = torch.zeros((), dtype=torch.float64, device=image.device)
        (room,) = ctx.negatives.rooms(image, text)
        for part in ctx.negatives.blocks(len(image)):
            logits = product(image[part], text, room).mul_(scale).add_(bias)
            ctx.negatives.strike(logits, part.start)
            weights = logits.sigmoid_()
            bias_grad += weights.sum(1).sum(dtype=torch.float64)
            torch.mm(weights, text, out=image_grad[part])
            text_grad.addmm_(weights.T, image[part])
        scale_grad, bias_grad = ctx.negatives.shared_gradients(text_grad, inner(image, image_grad), bias_grad)
        whole = of_total * scale
        return (
            image_grad.mul_(whole),
            text_grad.mul_(whole),
            scale_grad.to(scale) * of_total,
            bias_grad.to(bias) * of_total,
            None,
        )


def negative_softplus(
    image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, negatives: Negatives
) -> tuple[Tensor, Tensor]:
    """`Σ log(1 + exp(scale · cosine + bias))` over all negatives, and how many they are.

    `image (b, e)`, `text (m, e)`, `scale` and `bias` numbers; the sum is once differentiable.
    """
    found: tuple[Tensor, Tensor] = _NegativeSoftplus.apply(image, text, scale, bias, negatives)
    return found
