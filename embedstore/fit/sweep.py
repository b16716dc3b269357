"""Many heads from one pass over the cache: batches are read once, and every head steps on them."""

from __future__ import annotations

import json
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from embedstore.documents import FitConfig, HeadConfig, load_document
from embedstore.encoders.device import pick_device
from embedstore.errors import HeadError, UsageError
from embedstore.fit.config import check_config
from embedstore.fit.data import caption_numbers, training_data
from embedstore.fit.files import FIT, FitLog, HeadFolder
from embedstore.fit.gradient_cache import LargeStep
from embedstore.fit.grid import Member, stream_key, streams
from embedstore.fit.learner import Learner
from embedstore.fit.plots import sweep_chart, write_curves
from embedstore.fit.record import head_record
from embedstore.fit.sweep_report import SweepPass, SweepProgress, SweepResult, read_member
from embedstore.fit.trainer import Run, steps_of
from embedstore.heads.buffers import POOL
from embedstore.model import CONFIG
from embedstore.store import files, open_store
from embedstore.stream.cached_pairs import pairs_on_device
from embedstore.stream.groups import BUFFER_MB
from embedstore.stream.micro import Micro

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embedstore.fit.data import Validation
    from embedstore.store import Store
    from embedstore.stream.cached_pairs import CacheChoice, CachedPairs
    from embedstore.stream.pairs import PairBatch, PairStream

SWEEP, CHART = "sweep.json", "sweep.svg"
# What ends one head and leaves the others: its loss, or the memory that it asks for.
_OWN_FAULTS = (HeadError, RuntimeError, MemoryError)


def fit_sweep(
    store: str | Path | Store,
    members: Sequence[Member],
    out: str | Path,
    *,
    device: str = "auto",
    overwrite: bool = False,
    buffer_mb: float = BUFFER_MB,
    cache_on_device: CacheChoice = "auto",
    on_progress: Callable[[SweepProgress], None] | None = None,
) -> SweepResult:
    """Fit every member into `out`/its name, those that read the same batches in one pass together.

    A member's head, weights and log are those of `fit_head` with its configuration, to the bit on one CPU;
    only times differ. Members with fewer epochs, or out of patience, stop earlier. A loss that is not finite
    or memory that is not there ends that member alone. A finished head of the same configuration and store
    is left as it is, so that the same call goes on after an interruption. `sweep.json` and `sweep.svg` in
    `out` hold the figures of all. The other arguments are those of `fit_head`.

    Raises what `fit_head` raises before anything is fitted, and `UsageError` for a folder with a finished
    head of another configuration (unless `overwrite`).
    """
    opened = open_store(store) if isinstance(store, str | Path) else store
    place, out = pick_device(device), Path(out)
    records = {}
    for member in members:
        try:
            check_config(member.config)
            records[member.name] = head_record(opened, member.config)
        except (UsageError, HeadError) as bad:
            raise type(bad)(
                f"{member.name}: {bad.problem}",
                where=bad.where,
                found=bad.found,
                allowed=bad.allowed,
                todo=bad.todo,
            ) from None
    finished = {m.name for m in members if not overwrite and _is_finished(out / m.name, m, records[m.name])}
    groups = streams(tuple(members), {n: r.text_pooling == "pooled" for n, r in records.items()})
    began = time.perf_counter()
    passes: list[SweepPass] = []
    errors: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        left = [member for member in group if member.name not in finished]
        if not left:
            continue
        todo = _Pass(opened, left, records, out, place, overwrite, on_progress, number, len(groups))
        passes.append(todo.run(buffer_mb, cache_on_device))
        errors |= todo.errors
    result = SweepResult(
        out=out,
        members=tuple(
            read_member(out, m, kept=m.name in finished, error=errors.get(m.name)) for m in members
        ),
        passes=tuple(passes),
        device=str(place),
        seconds=time.perf_counter() - began,
    )
    out.mkdir(parents=True, exist_ok=True)
    files.replace(out / SWEEP, (json.dumps(result.to_dict(), indent=2, ensure_ascii=False) + "\n").encode())
    files.replace(out / CHART, sweep_chart(result.members, title=out.name).encode())
    return result


def _is_finished(folder: Path, member: Member, record: HeadConfig) -> bool:
    """Whether this very head lies there; `UsageError` where it is another one."""
    if not (folder / CONFIG).exists():
        return False
    head = load_document(HeadConfig, folder / CONFIG)
    same = load_document(FitConfig, folder / FIT) == member.config
    rows = (head.store_fingerprint, head.stores, head.rows)
    if same and rows == (record.store_fingerprint, record.stores, record.rows):
        return True
    raise UsageError(
        "a finished head of another configuration or store is already here",
        where=folder,
        todo="name another folder, or replace it with --overwrite",
    )


@dataclass(slots=True)
class _Turn:
    """One member while its pass runs, and the seconds of its own steps."""

    member: Member
    run: Run
    folder: HeadFolder
    busy: float = 0.0


@dataclass(slots=True)
class _Pass:
    """The epochs of all members that learn from one stream."""

    store: Store
    members: Sequence[Member]
    records: dict[str, HeadConfig]
    out: Path
    device: torch.device
    overwrite: bool
    on_progress: Callable[[SweepProgress], None] | None
    number: int
    passes: int
    errors: dict[str, str] = field(default_factory=dict)
    turns: list[_Turn] = field(default_factory=list)
    parts_passes: int = 0

    def run(self, buffer_mb: float, cache_on_device: CacheChoice) -> SweepPass:
        first = self.members[0]
        began, loading, steps = time.perf_counter(), 0.0, 0
        with ExitStack() as stack:
            stack.enter_context(
                torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else [])
            )
            streamed, validation = training_data(
                self.store,
                first.config,
                pooled_texts=self.records[first.name].text_pooling == "pooled",
                pin=self.device.type == "cuda",
                buffer_mb=buffer_mb,
            )
            stream = pairs_on_device(streamed, self.device, cache_on_device)
            self.enter(stack, streamed, stream, validation)
            epoch = 0
            while self.turns:
                epoch += 1
                loading += self.one_epoch(stream, epoch, validation, began)
                steps += stream.steps
        POOL.clear()
        return SweepPass(
            names=tuple(member.name for member in self.members),
            stream=stream_key(first.config),
            images=len(stream.rows),
            skipped=stream.skipped,
            steps=steps,
            seconds=time.perf_counter() - began,
            loading_seconds=loading,
        )

    def enter(
        self,
        stack: ExitStack,
        streamed: PairStream,
        stream: PairStream | CachedPairs,
        validation: Validation | None,
    ) -> None:
        """Build every member, each from its own seed."""
        masked = any(member.config.mask_duplicates for member in self.members)
        words = caption_numbers(self.store, streamed.texts) if masked else None
        for member in self.members:
            folder = HeadFolder(self.out / member.name, overwrite=self.overwrite)
            log = stack.enter_context(FitLog(folder.path))
            try:
                learner = Learner(
                    self.records[member.name],
                    member.config,
                    device=self.device,
                    epoch_steps=stream.steps,
                    words=words if member.config.mask_duplicates else None,
                )
            except _OWN_FAULTS as bad:
                self.fail(member, log, bad)
                continue
            run = Run(learner, stream, validation, log, None)
            run.start()
            self.turns.append(_Turn(member, run, folder))

    def one_epoch(
        self, stream: PairStream | CachedPairs, epoch: int, validation: Validation | None, began: float
    ) -> float:
        """One pass over the tokens for all; the seconds that were waited for them."""
        before = {turn.member.name: turn.busy for turn in self.turns}
        for turn in self.turns:
            turn.run.begin(epoch)
        caches = [cache for turn in self.turns if (cache := turn.run.learner.cache) is not None]
        self.parts_passes = sum(cache.micro.passes for cache in caches)
        micro = Micro(rows=caches[0].micro.rows, passes=self.parts_passes) if caches else None
        with stream.epoch(epoch - 1, micro=micro) as batches:
            for count, batch in steps_of(stream, batches, epoch, self.turns[0].run.learner):
                self.step(count, batch)
                if not self.turns:
                    break
                self.report(stream, epoch, began)
        recalls = self.validated(validation)
        for turn, recall in zip(list(self.turns), recalls, strict=True):
            spent = turn.busy - before[turn.member.name]
            turn.run.end(recall, spent=spent, loading=batches.waited)
            if epoch == turn.member.config.epochs or turn.run.learner.exhausted:
                self.leave(turn)
        return batches.waited

    def step(self, count: int, batch: PairBatch | LargeStep) -> None:
        """A step of every member on one batch, which is moved to the device and decoded once."""
        if isinstance(batch, LargeStep):
            whole = islice(batch.batches, batch.count * self.parts_passes)
            for turn in list(self.turns):
                cache = turn.run.learner.cache
                own = islice(whole, batch.count * (cache.micro.passes if cache else 0))
                self.take(turn, count, replace(batch, batches=own))
                deque(own, maxlen=0)
            # What members that failed, in this step or before, have left is not the next step's.
            deque(whole, maxlen=0)
            return
        moved = batch.to(self.device)
        for turn in list(self.turns):
            self.take(turn, count, moved)

    def take(self, turn: _Turn, count: int, batch: PairBatch | LargeStep) -> None:
        """A step of one member, which is out where that fails."""
        began = time.perf_counter()
        try:
            turn.run.take(count, batch)
        except _OWN_FAULTS as bad:
            self.drop(turn, bad)
        turn.busy += time.perf_counter() - began

    def validated(self, validation: Validation | None) -> list[dict[str, float] | None]:
        """The recall of every member that is left; where they do not fit together, one by one."""
        if validation is None or not self.turns:
            return [None] * len(self.turns)
        try:
            return [*validation.recalls([t.run.learner.judged for t in self.turns], self.device)]
        except _OWN_FAULTS:
            found: list[dict[str, float] | None] = []
            for turn in list(self.turns):
                try:
                    found += validation.recalls([turn.run.learner.judged], self.device)
                except _OWN_FAULTS as bad:
                    self.drop(turn, bad)
            return found

    def leave(self, turn: _Turn) -> None:
        """A member is done: write its head, and let go of what it held."""
        learner = turn.run.learner
        turn.run.stop(turn.busy)
        write_curves(turn.folder.path, epoch_steps=learner.epoch_steps)
        record = self.records[turn.member.name].model_copy(update={"temperature": learner.kept_temperature})
        turn.folder.finish(record, turn.member.config, {n: t.cpu() for n, t in learner.kept.items()})
        self.turns.remove(turn)

    def drop(self, turn: _Turn, bad: Exception) -> None:
        """A member failed: the others go on without it."""
        self.turns.remove(turn)
        self.fail(turn.member, turn.run.log, bad)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def fail(self, member: Member, log: FitLog, bad: Exception) -> None:
        """Note why a member has no head."""
        self.errors[member.name] = str(bad) or type(bad).__name__
        log.write("failed", error=self.errors[member.name])

    def report(self, stream: PairStream | CachedPairs, epoch: int, began: float) -> None:
        """Tell whoever looks how far this pass is."""
        if self.on_progress is None:
            return
        done = max(turn.run.learner.step for turn in self.turns)
        steps = max(turn.run.learner.steps for turn in self.turns)
        self.on_progress(
            SweepProgress(
                number=self.number,
                passes=self.passes,
                heads=len(self.turns),
                failed=len(self.errors),
                epoch=epoch,
                step=done,
                steps=steps,
                seconds=time.perf_counter() - began,
                samples_per_second=done / stream.steps * stream.epoch_rows / (time.perf_counter() - began),
                device=str(self.device),
            )
        )
