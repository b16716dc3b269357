"""The gradient of a large batch in the memory of a small one: embeddings first, then the graph in parts.

One pass embeds the micro-batches without a graph; the loss of all embeddings gives a gradient for each of
them; another pass embeds the same micro-batches with a graph and sends that gradient through it. The sum is
the gradient of the undivided batch, provided that a row meets the same dropout whenever it comes, and batch
statistics are those of all rows. Source: Gao et al., Scaling Deep Contrastive Learning Batch Size under
Memory Limited Setup, 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch

from embedstore.fit.batch_statistics import SplitStatistics
from embedstore.fit.embedding import Embedding
from embedstore.fit.row_keys import RowKeys
from embedstore.losses.base import Pairing
from embedstore.stream.micro import Micro

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from embedstore.fit.world import World
    from embedstore.heads.base import Head
    from embedstore.shapes import IntArray
    from embedstore.stream.pairs import PairBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeStep:
    """One step's micro-batches, `count` of them, which `batches` brings `passes` times over.

    They have `pictures` pictures in all and `texts` texts at most.
    """

    batches: Iterator[PairBatch]
    count: int
    pictures: int
    texts: int

    def once(self) -> Iterator[PairBatch]:
        """The next pass over them."""
        return islice(self.batches, self.count)


class GradientCache:
    """Steps of any size by micro-batches of at most `rows` pictures.

    Dropout is drawn by row, from (`seed`, epoch, row), so that it is the same in every pass and for every
    size of a micro-batch; a head with other randomness gets torch's generator in the same state in each pass.
    Processes of a `world` have a part of each step each, and the gradient that comes through it.
    """

    def __init__(
        self,
        head: Head,
        *,
        rows: int,
        seed: int,
        device: torch.device,
        embedding: Embedding | None = None,
        world: World | None = None,
    ) -> None:
        self._embedding = embedding or Embedding(head, precision="float32", device=device)
        self._keys, self._device = RowKeys(seed, device), device
        self._norms = SplitStatistics(head, world)
        self.micro = Micro(rows=rows, passes=2 + 2 * self._norms.waves)

    def backward(
        self,
        step: LargeStep,
        epoch: int,
        loss_of: Callable[[Tensor, Tensor, IntArray | None, IntArray], Tensor],
    ) -> Tensor:
        """Add the gradient of a step to the weights'; its loss, a scalar.

        `loss_of(image (b, e), text (m, e), owner, text_rows)` with `owner (m,)` the picture of each text, or
        none where row i belongs to row i.
        """
        with self._norms.split():
            for wave in range(self._norms.waves):
                self._pass(step, epoch)
                self._norms.measured(wave)
            images, texts, owner, rows = self._embedded(step, epoch)
            loss = loss_of(images, texts, owner, rows)
            if torch.isfinite(loss):
                torch.autograd.backward([loss])
                self._through(step, epoch, images.grad, texts.grad)
                for wave in reversed(range(self._norms.waves)):
                    with self._norms.carrying(wave):
                        self._pass(step, epoch)
        return loss.detach()

    def _embedded(self, step: LargeStep, epoch: int) -> tuple[Tensor, Tensor, IntArray | None, IntArray]:
        """All embeddings as leaves, owners counted through the step, and the rows of the texts."""
        images, texts = _Gathered(step.pictures), _Gathered(step.texts)
        owners, rows = [], []
        with torch.no_grad():
            for batch in step.once():
                moved = batch.to(self._device)
                rows.append(batch.text.rows)
                if batch.owner is not None:
                    owners.append(batch.owner + images.count)
                images.add(self._image(moved, epoch))
                texts.add(self._text(moved, epoch))
        owner = np.concatenate(owners) if owners else None
        return images.leaf(), texts.leaf(), owner, np.concatenate(rows)

    def _through(
        self, step: LargeStep, epoch: int, image_grad: Tensor | None, text_grad: Tensor | None
    ) -> None:
        image_at = text_at = 0
        for batch in step.once():
            moved = batch.to(self._device)
            v, u = self._image(moved, epoch), self._text(moved, epoch)
            pairs = [
                (x, grad[at : at + len(x)])
                for x, grad, at in ((v, image_grad, image_at), (u, text_grad, text_at))
                if x.requires_grad and grad is not None
            ]
            torch.autograd.backward([x for x, _ in pairs], [grad for _, grad in pairs])
            image_at, text_at = image_at + len(v), text_at + len(u)

    def _pass(self, step: LargeStep, epoch: int) -> None:
        """Every micro-batch as far as the batch normalisations let it; a side without any is left out."""
        sides: list[Callable[[PairBatch, int], Tensor]] = [self._image, self._text]
        for batch in step.once():
            moved = batch.to(self._device)
            sides = [side for side in sides if self._norms.stopped(partial(side, moved, epoch))]

    def _image(self, batch: PairBatch, epoch: int) -> Tensor:
        image = batch.image
        with self._keys.image(image, epoch):
            return self._embedding.image(image)

    def _text(self, batch: PairBatch, epoch: int) -> Tensor:
        text = batch.text
        with self._keys.text(text, epoch):
            return self._embedding.text(text)


class _Gathered:
    """Parts of at most `most` rows in all, in one tensor from the start.

    Small tensors that are kept between large ones that are not would keep an allocator from using the room
    of these again.
    """

    def __init__(self, most: int) -> None:
        self._most, self.count = most, 0
        self._room = torch.empty(0)

    def add(self, part: Tensor) -> None:
        if not self.count:
            self._room = part.new_empty(self._most, part.shape[1])
        self._room[self.count : self.count + len(part)] = part
        self.count += len(part)

    def leaf(self) -> Tensor:
        """All of them, with a gradient to come."""
        return self._room[: self.count].detach().requires_grad_()


def pairing_of(
    owner: IntArray | None, words: IntArray | None, pictures: int, device: torch.device
) -> Pairing | None:
    """What a loss must know besides the embeddings, from the picture of each text and its words' number."""
    if owner is None and words is None:
        return None
    found = np.arange(pictures) if owner is None else owner
    return Pairing(
        owner=torch.from_numpy(found).to(device),
        words=None if words is None else torch.from_numpy(words).to(device),
    )
