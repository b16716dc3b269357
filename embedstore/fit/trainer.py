"""The training loop: cached tokens in, a head's folder out, the same numbers for the same seed."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from embedstore.encoders.device import pick_device
from embedstore.fit.checkpoint import MINUTES, Checkpoints, Identity, Snapshot
from embedstore.fit.config import check_config
from embedstore.fit.data import Validation, caption_numbers, training_data
from embedstore.fit.files import FitLog, HeadFolder
from embedstore.fit.gradient_cache import LargeStep
from embedstore.fit.interrupts import HeldSignals
from embedstore.fit.learner import Learner
from embedstore.fit.plots import write_curves
from embedstore.fit.record import head_record
from embedstore.fit.report import FitProgress, FitResult
from embedstore.fit.tensorboard import check_extra
from embedstore.fit.world import for_all
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
_KEPT_NUMBERS = (
    "epoch", "epoch_loss", "training_seconds", "loading_seconds", "_total", "_seen", "_loss", "_lr",
    "_waited",
)  # fmt: skip


def fit_head(
    store: str | Path | Store,
    config: FitConfig,
    out: str | Path,
    *,
    device: str = "auto",
    overwrite: bool = False,
    buffer_mb: float = BUFFER_MB,
    cache_on_device: CacheChoice = "auto",
    checkpoint_minutes: float = MINUTES,
    checkpoint_steps: int | None = None,
    tensorboard: bool = False,
    make_stream: Callable[..., PairStream] = PairStream,
    on_resume: Callable[[int, int], None] | None = None,
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

    A fit that was stopped goes on from the checkpoint in `out`, to the same bits; `on_resume(step, steps)`
    hears of it. One is written every `checkpoint_minutes` and where epochs end, in at most a hundredth of the
    time, or after every `checkpoint_steps`; and for SIGINT and SIGTERM, which wait for the step to end.

    The folder has a log by step and epoch, a chart of it, and with `tensorboard` the same as events.

    Raises `UsageError` for features, splits, languages and roles that the store has not, and for an `out`
    with a finished head or the checkpoint of another fit (unless `overwrite`); `HeadError` for sides that do
    not fit, and for a loss that is not finite; `MissingExtraError` for `tensorboard` without its package.
    """
    check_config(config)
    if tensorboard:
        check_extra()
    opened = open_store(store) if isinstance(store, str | Path) else store
    place = pick_device(device) if world is None else world.device
    if world is not None:
        world.refuse_other(f"{torch.__version__} {opened.fingerprint} {config.to_json()}")
    record = head_record(opened, config)
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
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
        folder = checkpoints = begun = None
        if world is None or world.speaks:
            identity = Identity.of(config, record, streamed.rows, streamed.texts)
            folder = HeadFolder(Path(out), identity, overwrite=overwrite)
            checkpoints = Checkpoints(
                folder.path, identity, minutes=checkpoint_minutes, steps=checkpoint_steps
            )
            begun = folder.begun
        stream = pairs_on_device(streamed, place, cache_on_device, epochs=config.epochs)
        with (
            FitLog(folder.path if folder else None, begun=begun, tensorboard=tensorboard) as log,
            HeldSignals() as signals,
        ):
            run = Run(learner, stream, validation, log, on_progress, checkpoints, signals)
            standing = for_all(world, lambda: begun.snapshot() if begun else None)
            if standing is not None:
                run.restore(standing)
                if on_resume is not None:
                    on_resume(learner.step, learner.steps)
            elif checkpoints is not None:
                checkpoints.remove()
            run.all_epochs()
            told = record.model_copy(update={"temperature": learner.kept_temperature})
            finished = for_all(world, lambda: _finished(folder, told, config, learner))
    POOL.clear()
    return run.result(Path(out), finished)


def _finished(folder: HeadFolder | None, head: HeadConfig, config: FitConfig, learner: Learner) -> HeadConfig:
    if folder is None:
        return head
    write_curves(folder.path, epoch_steps=learner.epoch_steps)
    return folder.finish(head, config, {name: tensor.cpu() for name, tensor in learner.kept.items()})


@dataclass(slots=True)
class Run:
    """The epochs of one fit: batches to the learner, lines to the log, progress to whoever looks.

    What of it must outlive the process is in its `snapshot`; `seconds` of all kinds count from the beginning
    of the fit, whichever process spent them.
    """

    learner: Learner
    stream: PairStream | CachedPairs
    validation: Validation | None
    log: FitLog
    on_progress: Callable[[FitProgress], None] | None
    checkpoints: Checkpoints | None = None
    signals: HeldSignals | None = None
    resumed_from: int | None = None
    epoch: int = 0
    epoch_loss: float = math.nan
    training_seconds: float = 0.0
    loading_seconds: float = 0.0
    seconds: float = 0.0
    _total: float = 0.0
    _seen: int = 0
    _loss: float = math.nan
    _lr: float = 0.0
    began: float = 0.0
    _spent: float = 0.0
    _waited: float = 0.0
    started: float = 0.0

    @property
    def skip(self) -> int:
        """Steps that the present epoch has had already."""
        return self.learner.step % self.stream.steps

    @property
    def cached_bytes(self) -> int:
        """Bytes of tokens in the device's memory."""
        return self.stream.nbytes if isinstance(self.stream, CachedPairs) else 0

    @property
    def processes(self) -> int:
        """How many make the steps together."""
        return self.learner.world.size if self.learner.world else 1

    def rate(self, seconds: float) -> float:
        """Pictures a second so far, if it took so long."""
        return self.learner.step / self.stream.steps * self.stream.epoch_rows / max(seconds, 1e-9)

    def all_epochs(self) -> None:
        """The whole fit, or what is left of it, but for what is written at the end."""
        self.start()
        learner = self.learner
        for epoch in range(1 + learner.step // self.stream.steps, learner.config.epochs + 1):
            if learner.exhausted:
                break
            self.one_epoch(epoch)
            if epoch < learner.config.epochs and not learner.exhausted:
                self.rest(epoch_end=True)
        self.stop(time.perf_counter() - self.started)

    def start(self) -> None:
        """The first line of the log, or a line that says from where the fit goes on."""
        self.started = time.perf_counter() - self.seconds
        if self.resumed_from is not None:
            self.log.write("resume", step=self.resumed_from, device=str(self.learner.device))
            return
        self.log.write(
            "start",
            device=str(self.learner.device),
            precision=self.learner.embedding.precision,
            images=len(self.stream.rows),
            epoch_images=self.stream.epoch_rows,
            validation_images=len(self.validation.images) if self.validation else 0,
            skipped=self.stream.skipped,
            parameters=self.learner.parameters,
            steps=self.learner.steps,
            cached_bytes=self.cached_bytes,
            processes=self.processes,
        )

    def away(self, seconds: float) -> None:
        """So much time has passed in which nothing was done for this fit."""
        self.started += seconds
        self.began += seconds

    def stop(self, seconds: float) -> None:
        """The last line of the log."""
        self.seconds = seconds
        self.log.write("end", kept_epoch=self.learner.kept_epoch, seconds=seconds)

    def one_epoch(self, epoch: int) -> None:
        """One pass over the rows, from 1."""
        self.begin(epoch)
        micro = self.learner.cache.micro if self.learner.cache else None
        waited, skip = self._waited, self.skip
        with self.stream.epoch(epoch - 1, micro=micro, skip=skip) as batches:
            for count, batch in steps_of(self.stream, batches, epoch, self.learner, skip=skip):
                self.take(count, batch)
                self._waited = waited + batches.waited
                if self.skip:
                    self.rest()
        spent = time.perf_counter() - self.began
        recall = None
        if (validation := self.validation) is not None:
            learner = self.learner
            recall = for_all(learner.world, lambda: validation.recalls([learner.judged], learner.device)[0])
        self.end(recall, spent=spent, loading=self._waited)

    def begin(self, epoch: int) -> None:
        """An epoch, from 1, or the rest of one."""
        self.learner.head.train()
        if not self.skip:
            self._total, self._seen, self._spent, self._waited = 0.0, 0, 0.0, 0.0
        self.epoch, self.began = epoch, time.perf_counter() - self._spent

    def take(self, count: int, batch: PairBatch | LargeStep) -> None:
        """One step of `count` pictures."""
        learner = self.learner
        self._lr = learner.lr
        self._loss = learner.learn(batch)
        self._total, self._seen = self._total + self._loss * count, self._seen + count
        if (learner.step - 1) % math.ceil(self.stream.steps / LOG_LINES_AN_EPOCH) == 0:
            self.log.write(
                "step",
                epoch=self.epoch,
                step=learner.step,
                loss=self._loss,
                temperature=learner.temperature,
                lr=self._lr,
            )
        if learner.step % self.stream.steps:
            self.report(self.training_seconds + time.perf_counter() - self.began)

    def rest(self, *, epoch_end: bool = False) -> None:
        """Between two steps: write a checkpoint where one is due, and let a signal through."""
        checkpoints, learner = self.checkpoints, self.learner
        stopping = self.signals is not None and self.signals.waiting is not None
        if learner.world is not None:
            # So that all of them stop after the same step.
            stopping = learner.world.any(stopping)
        if checkpoints is not None and (
            stopping
            or checkpoints.due(learner.step, epoch_end=epoch_end, nbytes=lambda: learner.snapshot().nbytes)
        ):
            checkpoints.write(self.snapshot(), step=learner.step, steps=learner.steps)
        if self.signals is not None:
            self.signals.deliver()

    def snapshot(self) -> Snapshot:
        """Where the fit stands between two steps, with all that its learner is."""
        learner, now = self.learner.snapshot(), time.perf_counter()
        mine = {name: getattr(self, name) for name in _KEPT_NUMBERS} | {
            "_spent": now - self.began if self.skip else 0.0,
            "seconds": now - self.started,
            "log_bytes": self.log.size,
        }
        return Snapshot(tensors=learner.tensors, numbers={"learner": learner.numbers, "run": mine})

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from there; the log must have been cut to what it was."""
        numbers = snapshot.numbers
        self.learner.restore(Snapshot(tensors=snapshot.tensors, numbers=numbers["learner"]))
        for name in (*_KEPT_NUMBERS, "_spent", "seconds"):
            setattr(self, name, numbers["run"][name])
        self.resumed_from = self.learner.step

    def end(self, recall: dict[str, float] | None, *, spent: float, loading: float) -> None:
        """The epoch is over, in `spent` seconds with `loading` of them: choose, log, report."""
        learner = self.learner
        self.training_seconds += spent
        self.loading_seconds += loading
        self.epoch_loss = self._total / self._seen
        learner.choose(self.epoch, recall)
        self.log.write(
            "epoch",
            epoch=self.epoch,
            step=learner.step,
            loss=self.epoch_loss,
            temperature=learner.temperature,
            samples_per_second=self._seen / max(spent, 1e-9),
            seconds=spent,
            loading_seconds=loading,
            **({"recall@1": recall} if recall else {}),
        )
        self.report(self.training_seconds, sum(recall.values()) / len(recall) if recall else None)

    def report(self, seconds: float, recall: float | None = None) -> None:
        """Tell whoever looks how far the fit is, after so many seconds."""
        if self.on_progress is None:
            return
        learner = self.learner
        self.on_progress(
            FitProgress(
                epoch=self.epoch,
                epochs=learner.config.epochs,
                step=learner.step,
                steps=learner.steps,
                loss=self._loss,
                temperature=learner.temperature,
                lr=self._lr,
                samples_per_second=self.rate(seconds),
                eta=(learner.steps - learner.step) * seconds / learner.step,
                device=str(learner.device),
                recall=recall,
            )
        )

    def result(self, out: Path, head: HeadConfig) -> FitResult:
        """What was done, for the head that lies in `out`."""
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
            resumed_from=self.resumed_from,
            kept_epoch=self.learner.kept_epoch,
            processes=self.processes,
            recall=self.learner.best,
        )


def steps_of(
    stream: PairStream | CachedPairs,
    batches: Iterable[PairBatch],
    epoch: int,
    learner: Learner,
    *,
    skip: int = 0,
) -> Iterator[tuple[int, PairBatch | LargeStep]]:
    """What every step of an epoch (from 1) after the first `skip` is made of.

    And of how many pictures it is, on all processes together.
    """
    if learner.cache is None and learner.world is None:
        yield from ((len(batch.image.rows), batch) for batch in batches)
        return
    counts = np.diff(stream.whole_plan(epoch - 1).after(skip).batches).tolist()
    if learner.cache is None:
        yield from zip(counts, batches, strict=True)
        return
    plan = stream.plan(epoch - 1).after(skip)
    each, parts = iter(batches), learner.cache.micro.counts(plan).tolist()
    for count, own, many in zip(counts, np.diff(plan.batches).tolist(), parts, strict=True):
        texts = own * learner.config.captions
        yield count, LargeStep(batches=each, count=many, pictures=own, texts=texts)
