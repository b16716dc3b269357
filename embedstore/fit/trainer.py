"""The training loop: cached tokens in, a head's folder out, the same numbers for the same seed."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from embedstore.encoders.device import pick_device
from embedstore.errors import HeadError
from embedstore.fit.config import check_config
from embedstore.fit.data import Validation, training_data
from embedstore.fit.files import FitLog, HeadFolder
from embedstore.fit.parts import loss_of_parts
from embedstore.fit.record import head_record
from embedstore.fit.report import FitProgress, FitResult
from embedstore.fit.schedule import learning_rate, parameter_groups
from embedstore.heads.base import build_head
from embedstore.heads.buffers import POOL
from embedstore.losses.base import build_loss
from embedstore.store import open_store
from embedstore.stream.cached_pairs import CachedPairs, pairs_on_device
from embedstore.stream.groups import BUFFER_MB
from embedstore.stream.pairs import PairStream

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from embedstore.documents import FitConfig, HeadConfig
    from embedstore.heads.base import Head
    from embedstore.losses.base import Loss
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
        loss = build_loss(config.loss, temperature=config.temperature).to(place)
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
        with FitLog(folder.path) as log:
            run = _Run(config, head, loss, stream, validation, place, log, on_progress)
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
    optimiser: torch.optim.Optimizer = field(init=False)
    step: int = 0
    epoch_loss: float = math.nan
    kept: dict[str, Tensor] = field(default_factory=dict)
    kept_temperature: float = math.nan
    kept_epoch: int = 0
    best: dict[str, float] | None = None
    training_seconds: float = 0.0
    loading_seconds: float = 0.0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.optimiser = torch.optim.AdamW(
            parameter_groups([self.head, self.loss], self.config.weight_decay),
            lr=self.config.lr,
            fused=self.device.type in ("cpu", "cuda"),
        )

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
        self.seconds = time.perf_counter() - start
        self.log.write("end", kept_epoch=self.kept_epoch, seconds=self.seconds)

    def one_epoch(self, epoch: int) -> None:
        self.head.train()
        start, total, seen = time.perf_counter(), 0.0, 0
        every = max(1, self.stream.steps // LOG_LINES_AN_EPOCH)
        with self.stream.epoch(epoch - 1) as batches:
            for batch in batches:
                lr, loss = self.one_step(batch, epoch)
                count = len(batch.image.rows)
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

    def one_step(self, batch: PairBatch, epoch: int) -> tuple[float, float]:
        config, moved = self.config, batch.to(self.device)
        lr = learning_rate(
            self.step,
            steps=self.steps,
            warmup=min(self.steps, round(config.warmup_epochs * self.stream.steps)),
            peak=config.lr,
            floor=config.min_lr,
        )
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.zero_grad()
        loss = loss_of_parts(
            self.loss,
            self.head.parts,
            self.head.embed_image(
                moved.image.tokens, moved.image.prefix, moved.image.pooled, moved.image.weights
            ),
            self.head.embed_text(moved.text.tokens, moved.text.offsets),
        )
        value = loss.item()
        if not math.isfinite(value):
            raise HeadError(
                "the loss is not finite",
                where=f"epoch {epoch}, step {self.step + 1} of {self.steps}",
                found=f"loss {value}, lr {lr:.3g}, τ {self.temperature:.4g}",
                todo="lower lr or lengthen warmup_epochs; if it is step 1: embedstore verify STORE",
            )
        torch.autograd.backward(loss)
        self.optimiser.step()
        self.loss.clamp()
        self.step += 1
        return lr, value

    @property
    def temperature(self) -> float:
        return self.loss.temperature.item()

    def choose(self, epoch: int) -> dict[str, float] | None:
        """Keep this epoch's weights where they are the best so far, or the last."""
        if self.validation is None:
            if epoch == self.config.epochs:
                self.keep(epoch)
            return None
        self.head.eval()
        recall = self.validation.recall(
            lambda part: self.head.embed_image(part.tokens, part.prefix, part.pooled, part.weights),
            lambda part: self.head.embed_text(part.tokens, part.offsets),
            self.device,
        )
        if self.best is None or sum(recall.values()) > sum(self.best.values()):
            self.best = recall
            self.keep(epoch)
        return recall

    def keep(self, epoch: int) -> None:
        self.kept = copy.deepcopy(dict(self.head.state_dict()))
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
            steps=self.steps,
            loss=self.epoch_loss,
            samples_per_second=self.rate,
            seconds=self.seconds,
            loading_seconds=self.loading_seconds,
            skipped=self.stream.skipped,
            cached_bytes=self.cached_bytes,
            kept_epoch=self.kept_epoch,
            recall=self.best,
        )
