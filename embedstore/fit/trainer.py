"""The training loop: cached tokens in, a head's folder out, the same numbers for the same seed."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from embedstore import __version__
from embedstore.encoders.device import pick_device
from embedstore.fit.config import check_config
from embedstore.fit.data import Validation, caption_numbers, training_data
from embedstore.fit.files import FitLog, HeadFolder
from embedstore.fit.gradient_cache import LargeStep
from embedstore.fit.learner import Learner
from embedstore.fit.record import head_record
from embedstore.fit.report import FitProgress, FitResult
from embedstore.heads.buffers import POOL
from embedstore.store import open_store
from embedstore.stream.cached_pairs import CachedPairs, pairs_on_device
from embedstore.stream.groups import BUFFER_MB
from embedstore.stream.pairs import PairStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from embedstore.documents import FitConfig, HeadConfig
    from embedstore.fit.world import World
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
    world: World | None = None,
) -> FitResult:
    """Fit a head on two features of a store and write its folder.

    On one CPU with the same thread count and library versions the weights are the same to the bit for the
    same `config`; torch's random state is left as it was. How tokens come changes nothing of them:
    `buffer_mb` (MiB) bounds what is read ahead; `cache_on_device` reads all once and keeps them in the memory
    of the device (`auto`: on a GPU, where they fit; `yes`: or fails with the numbers). `make_stream` stands
    in for `PairStream`, to study another order.

    The processes of a `world` (`torchrun_world`) call this alike, make every step together and all get the
    result; the device is then the world's, and the first of them logs, validates and writes.

    Raises `UsageError` for features, splits, languages and roles that the store has not, and for an `out`
    with a finished head (unless `overwrite`); `HeadError` for sides that do not fit, and for a loss that is
    not finite.
    """
    check_config(config)
    opened = open_store(store) if isinstance(store, str | Path) else store
    place = pick_device(device) if world is None else world.device
    if world is not None:
        world.refuse_other(f"{__version__} {torch.__version__} {opened.fingerprint} {config.to_json()}")
    record = head_record(opened, config)
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        torch.manual_seed(config.seed)
        streamed, validation = training_data(
            opened,
            config,
            pooled_texts=record.text_pooling == "pooled",
            pin=place.type == "cuda",
            buffer_mb=buffer_mb,
            make_stream=make_stream,
            share=None if world is None else world.share,
        )
        words = caption_numbers(opened, streamed.texts) if config.mask_duplicates else None
        learner = Learner(record, config, device=place, epoch_steps=streamed.steps, words=words, world=world)
        writes = world is None or world.speaks
        folder = HeadFolder(Path(out), overwrite=overwrite) if writes else None
        stream = pairs_on_device(streamed, place, cache_on_device, epochs=config.epochs)
        with FitLog(folder.path if folder else None) as log:
            run = _Run(learner, stream, validation, log, on_progress)
            run.all_epochs()
    POOL.clear()
    weights = {name: tensor.cpu() for name, tensor in learner.kept.items()}
    record = record.model_copy(update={"temperature": learner.kept_temperature})

    def finished() -> HeadConfig:
        return record if folder is None else folder.finish(record, config, weights)

    return run.result(Path(out), finished() if world is None else world.first(finished))


@dataclass(slots=True)
class _Run:
    """The epochs of one fit: batches to the learner, lines to the log, progress to whoever looks."""

    learner: Learner
    stream: PairStream | CachedPairs
    validation: Validation | None
    log: FitLog
    on_progress: Callable[[FitProgress], None] | None
    epoch: int = 0
    epoch_loss: float = math.nan
    training_seconds: float = 0.0
    loading_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def cached_bytes(self) -> int:
        return self.stream.nbytes if isinstance(self.stream, CachedPairs) else 0

    @property
    def processes(self) -> int:
        return self.learner.world.size if self.learner.world else 1

    def rate(self, seconds: float) -> float:
        return self.learner.step / self.stream.steps * len(self.stream.rows) / max(seconds, 1e-9)

    def all_epochs(self) -> None:
        start = time.perf_counter()
        self.log.write(
            "start",
            device=str(self.learner.device),
            images=len(self.stream.rows),
            validation_images=len(self.validation.images) if self.validation else 0,
            skipped=self.stream.skipped,
            parameters=self.learner.parameters,
            steps=self.learner.steps,
            cached_bytes=self.cached_bytes,
            processes=self.processes,
        )
        for epoch in range(1, self.learner.config.epochs + 1):
            self.one_epoch(epoch)
            if self.learner.exhausted:
                break
        self.seconds = time.perf_counter() - start
        self.log.write("end", kept_epoch=self.learner.kept_epoch, seconds=self.seconds)

    def one_epoch(self, epoch: int) -> None:
        learner = self.learner
        learner.head.train()
        self.epoch = epoch
        start, total, seen = time.perf_counter(), 0.0, 0
        every = max(1, self.stream.steps // LOG_LINES_AN_EPOCH)
        micro = learner.cache.micro if learner.cache else None
        with self.stream.epoch(epoch - 1, micro=micro) as batches:
            for count, batch in self.batches_of_steps(batches):
                lr = learner.lr
                loss = learner.learn(batch)
                total, seen = total + loss * count, seen + count
                now = self.training_seconds + time.perf_counter() - start
                if (learner.step - 1) % every == 0:
                    self.log.write(
                        "step",
                        epoch=epoch,
                        step=learner.step,
                        loss=loss,
                        temperature=learner.temperature,
                        lr=lr,
                    )
                if learner.step % self.stream.steps:
                    self.report(loss, lr, now)
        spent = time.perf_counter() - start
        self.training_seconds += spent
        self.loading_seconds += batches.waited
        self.epoch_loss = total / seen
        recall = learner.choose(epoch, self.validation)
        self.log.write(
            "epoch",
            epoch=epoch,
            loss=self.epoch_loss,
            temperature=learner.temperature,
            samples_per_second=seen / spent,
            seconds=spent,
            loading_seconds=batches.waited,
            **({"recall@1": recall} if recall else {}),
        )
        mean = sum(recall.values()) / len(recall) if recall else None
        self.report(loss, lr, self.training_seconds, mean)

    def batches_of_steps(self, batches: Iterable[PairBatch]) -> Iterator[tuple[int, PairBatch | LargeStep]]:
        """What every step of the epoch is made of, and how many pictures it has on all processes together."""
        cache = self.learner.cache
        if cache is None and self.learner.world is None:
            yield from ((len(batch.image.rows), batch) for batch in batches)
            return
        plan, whole = self.stream.plan(self.epoch - 1), self.stream.whole_plan(self.epoch - 1)
        counts = np.diff(whole.batches).tolist()
        if cache is None:
            yield from zip(counts, batches, strict=True)
            return
        each, parts = iter(batches), cache.micro.counts(plan).tolist()
        for count, own, many in zip(counts, np.diff(plan.batches).tolist(), parts, strict=True):
            texts = own * self.learner.config.captions
            yield count, LargeStep(batches=each, count=many, pictures=own, texts=texts)

    def report(self, loss: float, lr: float, seconds: float, recall: float | None = None) -> None:
        if self.on_progress is None:
            return
        learner = self.learner
        self.on_progress(
            FitProgress(
                epoch=self.epoch,
                epochs=learner.config.epochs,
                step=learner.step,
                steps=learner.steps,
                loss=loss,
                temperature=learner.temperature,
                lr=lr,
                samples_per_second=self.rate(seconds),
                eta=(learner.steps - learner.step) * seconds / learner.step,
                device=str(learner.device),
                recall=recall,
            )
        )

    def result(self, out: Path, head: HeadConfig) -> FitResult:
        return FitResult(
            out=out,
            head=head,
            config=self.learner.config,
            device=str(self.learner.device),
            parameters=self.learner.parameters,
            images=len(self.stream.rows),
            epochs=self.epoch,
            steps=self.learner.step,
            loss=self.epoch_loss,
            samples_per_second=self.rate(self.training_seconds),
            seconds=self.seconds,
            loading_seconds=self.loading_seconds,
            skipped=self.stream.skipped,
            cached_bytes=self.cached_bytes,
            kept_epoch=self.learner.kept_epoch,
            processes=self.processes,
            recall=self.learner.best,
        )
