"""One head that learns: its loss, its optimiser, its steps, and the weights that are kept of it."""

from __future__ import annotations

import copy
import math
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch

from embedstore.errors import HeadError
from embedstore.fit.average import WeightAverage
from embedstore.fit.checkpoint import Snapshot
from embedstore.fit.compiled import compiles
from embedstore.fit.embedding import Embedding, precision_of
from embedstore.fit.gradient_cache import GradientCache, LargeStep, pairing_of
from embedstore.fit.parts import loss_of_parts
from embedstore.fit.randomness import generators, seed_generators, seed_step
from embedstore.fit.row_keys import RowKeys
from embedstore.fit.schedule import learning_rate, make_optimiser, warmup_steps
from embedstore.fit.synced_norm import SyncedStatistics
from embedstore.fit.token_pairs import refuse_without_tokens, token_pairs
from embedstore.heads.base import build_head
from embedstore.losses.base import build_loss

if TYPE_CHECKING:
    from torch import Tensor

    from embedstore.documents import FitConfig, HeadConfig
    from embedstore.fit.world import World
    from embedstore.heads.base import Head
    from embedstore.shapes import IntArray
    from embedstore.stream.pairs import PairBatch


class Learner:
    """What a fit changes, step by step: nothing here knows where batches come from.

    The first weights, and what is drawn at random in each step, follow from the configuration's seed and the
    step: torch's default generators are set anew each time, so several may learn side by side. `epoch_steps`:
    steps of an epoch, for the schedule. `words` (m,): a number for each text row, equal for equal captions,
    where these are not to be negatives of each other. The processes of a `world` make each step together, of
    a part of the batch each: they have the same loss and weights, those of the whole.
    """

    def __init__(
        self,
        record: HeadConfig,
        config: FitConfig,
        *,
        device: torch.device,
        epoch_steps: int,
        words: IntArray | None = None,
        world: World | None = None,
    ) -> None:
        self.record, self.config, self.device, self.words = record, config, device, words
        self.world = world
        self._generators = generators(device)
        seed_generators(self._generators, config.seed)
        self.head: Head = build_head(record).to(device)
        self.loss = build_loss(
            config.loss,
            temperature=config.temperature,
            bias=config.bias,
            positives=config.positives,
            global_weight=config.global_weight,
            local_weight=config.local_weight,
        ).to(device)
        if self.loss.compares_tokens:
            refuse_without_tokens(self.head, record, config, device)
        if world is not None:
            world.start_alike(self.head)
            self._keys, self._norms = RowKeys(config.seed, device), SyncedStatistics(self.head, world)
        self.optimiser = make_optimiser(config, [self.head, self.loss], device)
        self.embedding = Embedding(
            self.head,
            precision=precision_of(config, device),
            device=device,
            compile=compiles(config, self.head, device, world),
        )
        self.cache: GradientCache | None = None
        if config.micro_batch is not None:
            self.cache = GradientCache(
                self.head,
                rows=config.micro_batch,
                seed=config.seed,
                device=device,
                embedding=self.embedding,
                world=world,
            )
        self.average = None if config.ema is None else WeightAverage(self.head, config.ema)
        self.epoch_steps, self.steps = epoch_steps, config.epochs * epoch_steps
        self.warmup = warmup_steps(config, steps=self.steps, epoch=epoch_steps)
        self.step = 0
        self.kept: dict[str, Tensor] = {}
        self.kept_temperature, self.kept_epoch = math.nan, 0
        self.best: dict[str, float] | None = None

    @property
    def parameters(self) -> int:
        """Learnt values of the head."""
        return sum(p.numel() for p in self.head.parameters())

    @property
    def temperature(self) -> float:
        """τ now."""
        return self.loss.tau()

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return learning_rate(
            self.step, steps=self.steps, warmup=self.warmup, peak=self.config.lr, floor=self.config.min_lr
        )

    @property
    def judged(self) -> Head:
        """The head that is validated and kept: the averaged one where there is one."""
        return self.head if self.average is None else self.average.head

    @property
    def exhausted(self) -> bool:
        """Whether `patience` has run out, after an epoch."""
        patience = self.config.patience
        return patience is not None and self.step // self.epoch_steps - self.kept_epoch >= patience

    def learn(self, batch: PairBatch | LargeStep) -> float:
        """One step; its loss. `HeadError` where that is not finite, before anything is changed by it."""
        lr = self.lr
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.zero_grad()
        seed_step(self._generators, seed=self.config.seed, step=self.step)
        if isinstance(batch, LargeStep):
            if self.cache is None:
                raise HeadError("a step in parts needs micro_batch")
            value = self._finite(self.cache.backward(batch, self.step // self.epoch_steps, self._loss).item())
        else:
            loss = self._loss_of_batch(batch)
            value = self._finite(loss.item())
            torch.autograd.backward([loss])
        if self.world is not None:
            self.world.sum_gradients(self.head.parameters(), self.loss.parameters())
        if self.config.clip_norm is not None:
            weights = [p for group in self.optimiser.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(weights, self.config.clip_norm)
        self.optimiser.step()
        self.loss.clamp()
        if self.average is not None:
            self.average.update(self.head)
        self.step += 1
        return value

    def choose(self, epoch: int, recall: dict[str, float] | None) -> None:
        """Keep this epoch's weights where they are the best so far, or without a validation the last."""
        if recall is None:
            if epoch == self.config.epochs:
                self._keep(epoch)
        elif self.best is None or sum(recall.values()) > sum(self.best.values()):
            self.best = recall
            self._keep(epoch)

    def snapshot(self) -> Snapshot:
        """Everything that the next steps depend on, as it is: tensors are not copied."""
        modules = {"head": self.head, "loss": self.loss} | (
            {} if self.average is None else {"average": self.average.head}
        )
        found = {f"{name}.{key}": t for name, m in modules.items() for key, t in m.state_dict().items()}
        found |= {f"kept.{name}": tensor for name, tensor in self.kept.items()}
        for place, values in self.optimiser.state_dict()["state"].items():
            found |= {f"optimiser.{place}.{name}": tensor for name, tensor in values.items()}
        numbers = {
            "step": self.step,
            "averaged_steps": self.average.steps if self.average else 0,
            "kept_epoch": self.kept_epoch,
            "kept_temperature": self.kept_temperature,
            "best": self.best,
        }
        return Snapshot(tensors=found, numbers=numbers)

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot of a learner of the same configuration."""
        groups: dict[str, dict[str, Tensor]] = {"kept": {}, "optimiser": {}}
        for name, tensor in snapshot.tensors.items():
            first, _, rest = name.partition(".")
            groups.setdefault(first, {})[rest] = tensor
        self.head.load_state_dict(groups["head"])
        self.loss.load_state_dict(groups.get("loss", {}))
        numbers = snapshot.numbers
        if self.average is not None:
            self.average.head.load_state_dict(groups["average"])
            self.average.steps = numbers["averaged_steps"]
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in groups["optimiser"].items():
            place, _, name = key.partition(".")
            state.setdefault(int(place), {})[name] = tensor
        param_groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": state, "param_groups": param_groups})
        self.kept = {name: tensor.to(self.device) for name, tensor in groups["kept"].items()}
        self.step, self.kept_epoch, self.best = numbers["step"], numbers["kept_epoch"], numbers["best"]
        self.kept_temperature = numbers["kept_temperature"]

    def _keep(self, epoch: int) -> None:
        self.kept = copy.deepcopy(dict(self.judged.state_dict()))
        self.kept_temperature, self.kept_epoch = self.temperature, epoch

    def _loss_of_batch(self, batch: PairBatch) -> Tensor:
        moved, epoch = batch.to(self.device), self.step // self.epoch_steps
        with ExitStack() as inside:
            if self.world is not None:
                inside.enter_context(self._norms.synced())
                inside.enter_context(self._keys.image(batch.image, epoch))
            image = self.embedding.image(moved.image)
            if self.world is not None:
                inside.enter_context(self._keys.text(batch.text, epoch))
            text = self.embedding.text(moved.text)
        loss = self._loss(image, text, batch.owner, batch.text.rows)
        if self.loss.compares_tokens:
            with self.embedding.autocast():
                pairs = token_pairs(self.head, self.record, moved)
            loss = loss + self.loss.of_tokens(pairs)
        return loss

    def _loss(self, image: Tensor, text: Tensor, owner: IntArray | None, rows: IntArray) -> Tensor:
        """Of embeddings `(b, e)` and `(m, e)`; `owner`, `rows` (m,) the picture and the row of each text."""
        words = None if self.words is None else self.words[rows]
        if self.world is None:
            return self._loss_of_all(image, text, owner, words)
        with self.world.whole_batch(image, text, owner, words) as whole:
            return self._loss_of_all(whole.image, whole.text, whole.owner, whole.words)

    def _loss_of_all(
        self, image: Tensor, text: Tensor, owner: IntArray | None, words: IntArray | None
    ) -> Tensor:
        pairing = pairing_of(owner, words, len(image), self.device)
        beside = {} if pairing is None else {"pairing": pairing}
        return loss_of_parts(self.loss, self.head.parts, image, text, **beside)

    def _finite(self, value: float) -> float:
        if not math.isfinite(value):
            raise HeadError(
                "the loss is not finite",
                where=f"epoch {self.step // self.epoch_steps + 1}, step {self.step + 1} of {self.steps}",
                found=f"loss {value}, lr {self.lr:.3g}, τ {self.temperature:.4g}",
                todo="lower lr or lengthen warmup_epochs; if it is step 1: embedstore verify STORE",
            )
        return value
