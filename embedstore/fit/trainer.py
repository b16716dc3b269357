"""The training loop: cached tokens in, a head's folder out, the same numbers for the same seed."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from embedstore.encoders.device import pick_device
from embedstore.errors import HeadError
from embedstore.fit.average import WeightAverage
from embedstore.fit.config import check_config
from embedstore.fit.data import Validation, caption_numbers, training_data
from embedstore.fit.files import FitLog, HeadFolder
from embedstore.fit.gradient_cache import GradientCache, LargeStep, pairing_of
from embedstore.fit.parts import loss_of_parts
from embedstore.fit.record import head_record
from embedstore.fit.report import FitProgress, FitResult
from embedstore.fit.schedule import learning_rate, make_optimiser, warmup_steps
from embedstore.heads.base import build_head
from embedstore.heads.buffers import POOL
from embedstore.losses.base import build_loss
from embedstore.store import open_store
from embedstore.stream.cached_pairs import CachedPairs, pairs_on_device
from embedstore.stream.groups import BUFFER_MB
from embedstore.stream.pairs import PairStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import Tensor

    from embedstore.documents import FitConfig, HeadConfig
    from embedstore.heads.base import Head
    from embedstore.losses.base import Loss
    from embedstore.shapes import IntArray
    from embedstore.store import Store
    from embedstore.stream.cached_pairs import CacheChoice
    from embedstore.stream.pairs import PairBatch

LOG_LINES_AN_EPOCH = 20


def fit_head(
    store: str | Path | Store,
    config: FitConfig,
    out: str | Path,
    *,
    device: str = "auto",
    overwrite: bool = False,
    buffer_mb: float = BUFFER_MB,
    cache_on_device: CacheChoice = "auto",
    make_stream: Callable[..., PairStream] = PairStream,
    on_progress: Callable[[FitProgress], None] | None = None,
) -> FitResult:
    """Fit a head on two features of a store and write its folder.

    On one CPU with the same thread count and library versions the weights are the same to the bit for the
    same `config`; torch's random state is left as it was. How tokens come changes nothing of them:
    `buffer_mb` (MiB) bounds what is read ahead; `cache_on_device` reads all once and keeps them in the memory
    of the device (`auto`: on a GPU, where they fit; `yes`: or fails with the numbers). `make_stream` stands
    in for `PairStream`, to study another order.

    Raises `UsageError` for features, splits, languages and roles that the store has not, and for an `out`
    with a finished head (unless `overwrite`); `HeadError` for sides that do not fit, and for a loss that is
    not finite.
    """
    check_config(config)
    opened = open_store(store) if isinstance(store, str | Path) else store
    place = pick_device(device)
    record = head_record(opened, config)
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        torch.manual_seed(config.seed)
        head = build_head(record).to(place)
        loss = build_loss(
            config.loss, temperature=config.temperature, bias=config.bias, positives=config.positives
        ).to(place)
        pin = place.type == "cuda"
        streamed, validation = training_data(
            opened,
            config,
            pooled_texts=record.text_pooling == "pooled",
            pin=pin,
            buffer_mb=buffer_mb,
            make_stream=make_stream,
        )
        folder = HeadFolder(Path(out), overwrite=overwrite)
        stream = pairs_on_device(streamed, place, cache_on_device)
        words = caption_numbers(opened, streamed.texts) if config.mask_duplicates else None
        with FitLog(folder.path) as log:
            run = _Run(config, head, loss, stream, validation, place, log, on_progress, words)
            run.all_epochs()
    POOL.clear()
    weights = {name: tensor.cpu() for name, tensor in run.kept.items()}
    finished = folder.finish(record.model_copy(update={"temperature": run.kept_temperature}), config, weights)
    return run.result(folder.path, finished)


@dataclass(slots=True)
class _Run:
    """The moving parts of one fit."""

    config: FitConfig
    head: Head
    loss: Loss
    stream: PairStream | CachedPairs
    validation: Validation | None
    device: torch.device
    log: FitLog
    on_progress: Callable[[FitProgress], None] | None
    words: IntArray | None
    optimiser: torch.optim.Optimizer = field(init=False)
    cache: GradientCache | None = None
    average: WeightAverage | None = None
    step: int = 0
    epoch: int = 0
    lr: float = 0.0
    epoch_loss: float = math.nan
    kept: dict[str, Tensor] = field(default_factory=dict)
    kept_temperature: float = math.nan
    kept_epoch: int = 0
    best: dict[str, float] | None = None
    training_seconds: float = 0.0
    loading_seconds: float = 0.0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        config = self.config
        self.optimiser = make_optimiser(config, [self.head, self.loss], self.device)
        if config.micro_batch is not None:
            self.cache = GradientCache(
                self.head, rows=config.micro_batch, seed=config.seed, device=self.device
            )
        if config.ema is not None:
            self.average = WeightAverage(self.head, config.ema)

    @property
    def steps(self) -> int:
        return self.config.epochs * self.stream.steps

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.head.parameters())

    @property
    def cached_bytes(self) -> int:
        return self.stream.nbytes if isinstance(self.stream, CachedPairs) else 0

    @property
    def rate(self) -> float:
        return self.step / self.stream.steps * len(self.stream.rows) / max(self.training_seconds, 1e-9)

    def all_epochs(self) -> None:
        start = time.perf_counter()
        self.log.write(
            "start",
            device=str(self.device),
            images=len(self.stream.rows),
            validation_images=len(self.validation.images) if self.validation else 0,
            skipped=self.stream.skipped,
            parameters=self.parameters,
            steps=self.steps,
            cached_bytes=self.cached_bytes,
        )
        for epoch in range(1, self.config.epochs + 1):
            self.one_epoch(epoch)
            if self.config.patience is not None and epoch - self.kept_epoch >= self.config.patience:
                break
        self.seconds = time.perf_counter() - start
        self.log.write("end", kept_epoch=self.kept_epoch, seconds=self.seconds)

    def one_epoch(self, epoch: int) -> None:
        self.head.train()
        self.epoch = epoch
        start, total, seen = time.perf_counter(), 0.0, 0
        every = max(1, self.stream.steps // LOG_LINES_AN_EPOCH)
        with self.stream.epoch(epoch - 1, micro=self.cache.micro if self.cache else None) as batches:
            for count, batch in self.batches_of_steps(batches):
                lr, loss = self.one_step(batch, epoch)
                total, seen = total + loss * count, seen + count
                now = self.training_seconds + time.perf_counter() - start
                if (self.step - 1) % every == 0:
                    self.log.write(
                        "step", epoch=epoch, step=self.step, loss=loss, temperature=self.temperature, lr=lr
                    )
                if self.step % self.stream.steps:
                    self.report(epoch, loss, lr, now)
        spent = time.perf_counter() - start
        self.training_seconds += spent
        self.loading_seconds += batches.waited
        self.epoch_loss = total / seen
        recall = self.choose(epoch)
        self.log.write(
            "epoch",
            epoch=epoch,
            loss=self.epoch_loss,
            temperature=self.temperature,
            samples_per_second=seen / spent,
            seconds=spent,
            loading_seconds=batches.waited,
            **({"recall@1": recall} if recall else {}),
        )
        mean = sum(recall.values()) / len(recall) if recall else None
        self.report(epoch, loss, lr, self.training_seconds, mean)

    def batches_of_steps(self, batches: Iterable[PairBatch]) -> Iterator[tuple[int, PairBatch | LargeStep]]:
        """What every step of the epoch is made of, and how many pictures."""
        if self.cache is None:
            yield from ((len(batch.image.rows), batch) for batch in batches)
            return
        plan = self.stream.plan(self.epoch - 1)
        each, parts = iter(batches), self.cache.micro.counts(plan).tolist()
        for count, many in zip(np.diff(plan.batches).tolist(), parts, strict=True):
            texts = count * self.config.captions
            yield count, LargeStep(batches=each, count=many, pictures=count, texts=texts)

    def one_step(self, batch: PairBatch | LargeStep, epoch: int) -> tuple[float, float]:
        config = self.config
        lr = self.lr = learning_rate(
            self.step,
            steps=self.steps,
            warmup=warmup_steps(config, steps=self.steps, epoch=self.stream.steps),
            peak=config.lr,
            floor=config.min_lr,
        )
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.zero_grad()
        if isinstance(batch, LargeStep):
            if self.cache is None:
                raise HeadError("a step in parts needs micro_batch")
            value = self.finite(self.cache.backward(batch, epoch - 1, self.loss_of).item())
        else:
            loss = self.loss_of_batch(batch)
            value = self.finite(loss.item())
            torch.autograd.backward([loss])
        if config.clip_norm is not None:
            weights = [p for group in self.optimiser.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(weights, config.clip_norm)
        self.optimiser.step()
        self.loss.clamp()
        if self.average is not None:
            self.average.update(self.head)
        self.step += 1
        return lr, value

    def loss_of_batch(self, batch: PairBatch) -> Tensor:
        moved = batch.to(self.device)
        image = self.head.embed_image(
            moved.image.tokens, moved.image.prefix, moved.image.pooled, moved.image.weights
        )
        text = self.head.embed_text(moved.text.tokens, moved.text.offsets)
        return self.loss_of(image, text, batch.owner, batch.text.rows)

    def loss_of(self, image: Tensor, text: Tensor, owner: IntArray | None, rows: IntArray) -> Tensor:
        """Of embeddings `(b, e)` and `(m, e)`; `owner`, `rows` (m,) the picture and the row of each text."""
        words = None if self.words is None else self.words[rows]
        pairing = pairing_of(owner, words, len(image), self.device)
        beside = {} if pairing is None else {"pairing": pairing}
        return loss_of_parts(self.loss, self.head.parts, image, text, **beside)

    def finite(self, value: float) -> float:
        if not math.isfinite(value):
            raise HeadError(
                "the loss is not finite",
                where=f"epoch {self.epoch}, step {self.step + 1} of {self.steps}",
                found=f"loss {value}, lr {self.lr:.3g}, τ {self.temperature:.4g}",
                todo="lower lr or lengthen warmup_epochs; if it is step 1: embedstore verify STORE",
            )
        return value

    @property
    def temperature(self) -> float:
        return self.loss.tau()

    def choose(self, epoch: int) -> dict[str, float] | None:
        """Keep this epoch's weights where they are the best so far, or the last."""
        if self.validation is None:
            if epoch == self.config.epochs:
                self.keep(epoch)
            return None
        head = self.judged.eval()
        recall = self.validation.recall(
            lambda part: head.embed_image(part.tokens, part.prefix, part.pooled, part.weights),
            lambda part: head.embed_text(part.tokens, part.offsets),
            self.device,
        )
        if self.best is None or sum(recall.values()) > sum(self.best.values()):
            self.best = recall
            self.keep(epoch)
        return recall

    @property
    def judged(self) -> Head:
        """The head that is validated and kept: the averaged one where there is one."""
        return self.head if self.average is None else self.average.head

    def keep(self, epoch: int) -> None:
        self.kept = copy.deepcopy(dict(self.judged.state_dict()))
        self.kept_temperature, self.kept_epoch = self.temperature, epoch

    def report(self, epoch: int, loss: float, lr: float, seconds: float, recall: float | None = None) -> None:
        if self.on_progress is None:
            return
        self.on_progress(
            FitProgress(
                epoch=epoch,
                epochs=self.config.epochs,
                step=self.step,
                steps=self.steps,
                loss=loss,
                temperature=self.temperature,
                lr=lr,
                samples_per_second=self.step / self.stream.steps * len(self.stream.rows) / max(seconds, 1e-9),
                eta=(self.steps - self.step) * seconds / self.step,
                device=str(self.device),
                recall=recall,
            )
        )

    def result(self, out: Path, head: HeadConfig) -> FitResult:
        return FitResult(
            out=out,
            head=head,
            config=self.config,
            device=str(self.device),
            parameters=self.parameters,
            images=len(self.stream.rows),
            epochs=self.epoch,
            steps=self.step,
            loss=self.epoch_loss,
            samples_per_second=self.rate,
            seconds=self.seconds,
            loading_seconds=self.loading_seconds,
            skipped=self.stream.skipped,
            cached_bytes=self.cached_bytes,
            kept_epoch=self.kept_epoch,
            recall=self.best,
        )
