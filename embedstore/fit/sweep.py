"""Many heads from one pass over the cache: batches are read once, and every head steps on them."""

from __future__ import annotations

import itertools
import json
import time
from collections import deque
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from embedstore.encoders.device import pick_device
from embedstore.errors import HeadError
from embedstore.fit.checkpoint import MINUTES, Checkpoints, Identity
from embedstore.fit.data import caption_numbers, training_data
from embedstore.fit.files import FitLog, HeadFolder
from embedstore.fit.gradient_cache import LargeStep
from embedstore.fit.grid import Member, stream_key, streams
from embedstore.fit.interrupts import HeldSignals
from embedstore.fit.learner import Learner
from embedstore.fit.plots import sweep_chart, write_curves
from embedstore.fit.sweep_check import (
    checked_records,
    is_finished,
    refuse_another_begun,
    refuse_unread,
)
from embedstore.fit.sweep_report import SweepPass, SweepProgress, SweepResult, read_member
from embedstore.fit.tensorboard import check_extra
from embedstore.fit.trainer import Run, steps_of
from embedstore.heads.buffers import POOL
from embedstore.store import files, open_store
from embedstore.stream.cached_pairs import pairs_on_device
from embedstore.stream.groups import BUFFER_MB
from embedstore.stream.micro import Micro

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from embedstore.documents import HeadConfig
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
    checkpoint_minutes: float = MINUTES,
    checkpoint_steps: int | None = None,
    tensorboard: bool = False,
    on_progress: Callable[[SweepProgress], None] | None = None,
) -> SweepResult:
    """Fit every member into `out`/its name, those that read the same batches in one pass together.

    A member's head, weights and log are those of `fit_head` with its configuration, to the bit on one CPU;
    only times differ. Members with fewer epochs, or out of patience, stop earlier. A loss that is not finite
    or memory that is not there ends that member alone. A finished head of the same configuration and store
    is left as it is and an unfinished one goes on from its checkpoint, so that the same call goes on after an
    interruption. `sweep.json` and `sweep.svg` in `out` hold the figures of all. The other arguments are those
    of `fit_head`.

    Raises what `fit_head` raises before anything is fitted, and `UsageError` for a folder with a finished
    head of another configuration (unless `overwrite`).
    """
    if tensorboard:
        check_extra()
    opened = open_store(store) if isinstance(store, str | Path) else store
    place, out = pick_device(device), Path(out)
    records = checked_records(opened, members)
    finished = {m.name for m in members if not overwrite and is_finished(out / m.name, m, records[m.name])}
    groups = streams(tuple(members), {n: r.text_pooling == "pooled" for n, r in records.items()})
    left = [[member for member in group if member.name not in finished] for group in groups]
    refuse_unread(opened, [group for group in left if group], records)
    if not overwrite:
        for member in itertools.chain(*left):
            refuse_another_begun(out / member.name, member, records[member.name])
    began = time.perf_counter()
    passes: list[SweepPass] = []
    errors: dict[str, str] = {}
    for number, group in enumerate(left, 1):
        if not group:
            continue
        rhythm = {"minutes": checkpoint_minutes, "steps": checkpoint_steps}
        todo = _Pass(
            opened,
            group,
            records,
            out,
            place,
            overwrite,
            rhythm,
            tensorboard,
            on_progress,
            number,
            len(groups),
        )
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


@dataclass(slots=True)
class _Turn:
    """One member while its pass runs; `left`: when it last had its turn."""

    member: Member
    run: Run
    folder: HeadFolder
    checkpoints: Checkpoints
    left: float = field(default_factory=time.perf_counter)

    @property
    def step(self) -> int:
        """Steps taken."""
        return self.run.learner.step

    @contextmanager
    def turn(self) -> Iterator[Run]:
        """Inside, time counts for this member; outside it does not."""
        self.run.away(time.perf_counter() - self.left)
        try:
            yield self.run
        finally:
            self.left = time.perf_counter()


@dataclass(slots=True)
class _Pass:
    """The epochs of all members that learn from one stream."""

    store: Store
    members: Sequence[Member]
    records: dict[str, HeadConfig]
    out: Path
    device: torch.device
    overwrite: bool
    rhythm: dict[str, Any]
    tensorboard: bool
    on_progress: Callable[[SweepProgress], None] | None
    number: int
    passes: int
    errors: dict[str, str] = field(default_factory=dict)
    turns: list[_Turn] = field(default_factory=list)
    signals: HeldSignals = field(default_factory=HeldSignals)
    clock: Checkpoints | None = None
    parts_passes: int = 0
    resumed: int = 0
    first: int = 0

    def run(self, buffer_mb: float, cache_on_device: CacheChoice) -> SweepPass:
        """All of it."""
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
            stack.enter_context(self.signals)
            self.first = min((turn.step for turn in self.turns), default=0)
            while self.turns:
                at = min(turn.step for turn in self.turns)
                loading += self.one_epoch(stream, 1 + at // stream.steps, validation, began)
                steps += stream.steps - at % stream.steps
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
        """Build every member, or bring it to where its checkpoint stands."""
        masked = any(member.config.mask_duplicates for member in self.members)
        words = caption_numbers(self.store, streamed.texts) if masked else None
        for member in self.members:
            record = self.records[member.name]
            identity = Identity.of(member.config, record, streamed.rows, streamed.texts)
            folder = HeadFolder(self.out / member.name, identity, overwrite=self.overwrite)
            checkpoints = Checkpoints(folder.path, identity, **self.rhythm)
            self.clock = Checkpoints(self.out, identity, **self.rhythm)
            log = stack.enter_context(FitLog(folder.path, begun=folder.begun, tensorboard=self.tensorboard))
            try:
                learner = Learner(
                    record,
                    member.config,
                    device=self.device,
                    epoch_steps=stream.steps,
                    words=words if member.config.mask_duplicates else None,
                )
                run = Run(learner, stream, validation, log, None)
                if folder.begun is None:
                    checkpoints.remove()
                else:
                    run.restore(folder.begun.snapshot())
                    self.resumed += 1
            except _OWN_FAULTS as bad:
                self.fail(member, log, bad)
                continue
            run.start()
            turn = _Turn(member, run, folder, checkpoints)
            self.turns.append(turn)
            if learner.exhausted:
                self.leave(turn)

    def one_epoch(
        self, stream: PairStream | CachedPairs, epoch: int, validation: Validation | None, began: float
    ) -> float:
        """What is left of an epoch for those that are in it; the seconds that were waited for tokens."""
        here = [turn for turn in self.turns if turn.step < epoch * stream.steps]
        for turn in here:
            with turn.turn() as run:
                run.begin(epoch)
        caches = [cache for turn in here if (cache := turn.run.learner.cache) is not None]
        self.parts_passes = sum(cache.micro.passes for cache in caches)
        micro = Micro(rows=caches[0].micro.rows, passes=self.parts_passes) if caches else None
        at = min(turn.step for turn in here)
        skip = at % stream.steps
        with stream.epoch(epoch - 1, micro=micro, skip=skip) as batches:
            for count, batch in steps_of(stream, batches, epoch, here[0].run.learner, skip=skip):
                self.step(at, count, batch)
                at += 1
                if not self.turns:
                    break
                self.report(stream, epoch, at, began)
                if at % stream.steps:
                    self.rest(at)
        self.end(epoch, [turn for turn in self.turns if turn in here], validation, batches.waited)
        self.rest(at, epoch_end=True)
        return batches.waited

    def step(self, at: int, count: int, batch: PairBatch | LargeStep) -> None:
        """Step `at` of every member that stands there, on a batch that is moved and decoded once."""
        due = [turn for turn in self.turns if turn.step == at]
        if isinstance(batch, LargeStep):
            whole = itertools.islice(batch.batches, batch.count * self.parts_passes)
            for turn in due:
                cache = turn.run.learner.cache
                own = itertools.islice(whole, batch.count * (cache.micro.passes if cache else 0))
                self.take(turn, count, replace(batch, batches=own))
                deque(own, maxlen=0)
            # What was left, by members that failed or have taken this step before, is not the next step's.
            deque(whole, maxlen=0)
            return
        moved = batch.to(self.device)
        for turn in due:
            self.take(turn, count, moved)

    def take(self, turn: _Turn, count: int, batch: PairBatch | LargeStep) -> None:
        """A step of one member, which is out where that fails."""
        try:
            with turn.turn() as run:
                run.take(count, batch)
        except _OWN_FAULTS as bad:
            self.drop(turn, bad)

    def end(self, epoch: int, here: Sequence[_Turn], validation: Validation | None, waited: float) -> None:
        """An epoch is over: judge, and let those go that are done."""
        spent = {turn.member.name: turn.left - turn.run.began for turn in here}
        for turn, recall in self.judged(here, validation):
            with turn.turn() as run:
                run.end(recall, spent=spent[turn.member.name], loading=waited)
            if epoch == turn.member.config.epochs or turn.run.learner.exhausted:
                self.leave(turn)

    def judged(
        self, here: Sequence[_Turn], validation: Validation | None
    ) -> list[tuple[_Turn, dict[str, float] | None]]:
        """Members with their recall; one by one where they do not fit into memory together."""
        if validation is None or not here:
            return [(turn, None) for turn in here]
        try:
            recalls = validation.recalls([turn.run.learner.judged for turn in here], self.device)
            return [*zip(here, recalls, strict=True)]
        except _OWN_FAULTS:
            found: list[tuple[_Turn, dict[str, float] | None]] = []
            for turn in here:
                try:
                    found.append((turn, validation.recalls([turn.run.learner.judged], self.device)[0]))
                except _OWN_FAULTS as bad:
                    self.drop(turn, bad)
            return found

    def rest(self, at: int, *, epoch_end: bool = False) -> None:
        """Between two steps: write checkpoints where they are due, and let a signal through."""
        if self.clock is None:
            return
        stopping = self.signals.waiting is not None
        nbytes = lambda: sum(turn.run.learner.snapshot().nbytes for turn in self.turns)  # noqa: E731
        if self.turns and (stopping or self.clock.due(at, epoch_end=epoch_end, nbytes=nbytes)):
            began = time.perf_counter()
            for turn in self.turns:
                with turn.turn() as run:
                    snapshot = run.snapshot()
                turn.checkpoints.write(snapshot, step=turn.step, steps=run.learner.steps)
            self.clock.took(began)
        self.signals.deliver()

    def leave(self, turn: _Turn) -> None:
        """A member is done: write its head, and let go of what it held."""
        learner = turn.run.learner
        with turn.turn() as run:
            run.stop(time.perf_counter() - run.started)
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

    def report(self, stream: PairStream | CachedPairs, epoch: int, at: int, began: float) -> None:
        """Tell whoever looks how far this pass is."""
        if self.on_progress is None:
            return
        seconds = time.perf_counter() - began
        self.on_progress(
            SweepProgress(
                number=self.number,
                passes=self.passes,
                heads=len(self.turns),
                resumed=self.resumed,
                failed=len(self.errors),
                epoch=epoch,
                step=at,
                steps=max(turn.run.learner.steps for turn in self.turns),
                seconds=seconds,
                samples_per_second=(at - self.first) / stream.steps * stream.epoch_rows / seconds,
                device=str(self.device),
            )
        )
