"""Fits that are stopped: killed anywhere, interrupted, gone on with, refused."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedstore.documents import FitConfig
from embedstore.errors import HeadError, UsageError
from embedstore.fit import fit_config, fit_head, unfinished
from embedstore.fit.checkpoint import CHECKPOINT, Checkpoints, Identity, Snapshot
from embedstore.fit.data import training_data
from embedstore.fit.files import FitLog
from embedstore.fit.interrupts import HeldSignals
from embedstore.fit.record import head_record
from embedstore.store.order import epoch_plan
from embedstore.stream.cached_pairs import CachedPairs
from embedstore.stream.micro import Micro
from embedstore.stream.pairs import PairStream
from embedstore.testing.stores import write_random_store

# EMBEDSTORE_KILLS=20 kills each of five kinds of fit forty times.
KILLS = int(os.environ.get("EMBEDSTORE_KILLS", "1"))
FILES = ("head.safetensors", "head.json", "fit.json")


class StoppedError(Exception):
    """What stands in for the end of a process."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_random_store(tmp_path_factory.mktemp("resume") / "store", images=60)


@pytest.fixture(scope="module")
def whole(store, tmp_path_factory):
    return fit_head(store, config(), tmp_path_factory.mktemp("resume") / "whole", device="cpu")


def config(**options):
    small = {"split": "train", "width": 8, "epochs": 3, "batch_size": 10, "dropout": 0.2, "val_split": "val"}
    return fit_config(**{"image": "vision", "text": "words", **small, **options})


def stop_at(step, how):
    def progress(at):
        if at.step == step:
            how()

    return progress


def stopped():
    raise StoppedError


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def begun(store, out, step=8, *, every=3, chosen=None):
    """Leave a fit that is stopped after a step, of 15."""
    with pytest.raises(StoppedError):
        fit_head(
            store, chosen or config(), out, device="cpu", checkpoint_steps=every,
            on_progress=stop_at(step, stopped),
        )  # fmt: skip
    return out


def log_of(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def told(out, *kinds):
    times = {"seconds", "samples_per_second", "loading_seconds"}
    return [
        {k: v for k, v in line.items() if k not in times} for line in log_of(out) if line["kind"] in kinds
    ]


def same_head(a, b):
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in FILES)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_fits_killed_anywhere_end_with_the_same_bytes(store, tmp_path):
    script = Path(__file__).with_name("fit_killer.py")
    command = [sys.executable, script, tmp_path, store.path, KILLS, 4]
    made = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert made.returncode == 0, made.stderr
    fits = [json.loads(line) for line in made.stdout.splitlines()]
    assert len(fits) == 5 * KILLS
    assert all(fit["same"] for fit in fits)
    assert sum(code == -9 for fit in fits for code in fit["killed"]) >= len(fits)
    assert any(fit["resumed"] for fit in fits)


def test_a_fit_goes_on_where_it_was_and_accounts_for_all_of_it(store, whole, tmp_path):
    out = begun(store, tmp_path / "h")
    at = unfinished(out)
    assert (at.step, at.steps, at.identity.fit) == (6, 15, config())
    heard = []
    found = fit_head(
        store, config(), out, device="cpu", on_resume=lambda *a: heard.append(a), on_progress=heard.append
    )
    assert heard[0] == (6, 15)
    assert [p.step for p in heard[1:]] == list(range(7, 16))
    assert same_head(out, whole.out)
    assert {p.name for p in out.iterdir()} == {*FILES, "log.jsonl", "fit.svg"}
    assert (found.resumed_from, whole.resumed_from) == (6, None)
    assert (found.loss, found.recall, found.kept_epoch) == (whole.loss, whole.recall, whole.kept_epoch)
    assert (found.epochs, found.steps) == (3, 15)
    everything = ("start", "step", "epoch", "end")
    assert told(out, *everything) == told(whole.out, *everything)
    assert told(out, "resume") == [{"kind": "resume", "step": 6, "device": "cpu"}]
    epochs = [line["seconds"] for line in log_of(out) if line["kind"] == "epoch"]
    assert found.seconds >= sum(epochs) * 0.99
    assert found.seconds == pytest.approx(log_of(out)[-1]["seconds"], rel=1e-4)


def test_a_fit_goes_on_from_the_end_of_an_epoch_and_out_of_device_memory(store, whole, tmp_path):
    out = begun(store, tmp_path / "h", step=11, every=5)
    assert unfinished(out).step == 10
    fit_head(store, config(), out, device="cpu", cache_on_device="yes", buffer_mb=0.01)
    assert same_head(out, whole.out)


def test_patience_goes_on_counting(store, tmp_path):
    patient = config(epochs=12, patience=2, lr=1e-9, min_lr=0.0)
    wanted = fit_head(store, patient, tmp_path / "whole", device="cpu")
    assert wanted.epochs < 12
    out = begun(store, tmp_path / "h", step=wanted.steps - 3, every=1, chosen=patient)
    found = fit_head(store, patient, out, device="cpu")
    assert (found.epochs, found.kept_epoch) == (wanted.epochs, wanted.kept_epoch)
    assert same_head(out, wanted.out)


def test_an_interrupted_fit_is_written_down_where_it_stands(store, whole, tmp_path):
    out = tmp_path / "h"
    for step in (4, 5, 12):
        with pytest.raises(KeyboardInterrupt):
            fit_head(store, config(), out, device="cpu", on_progress=stop_at(step, interrupt))
        assert unfinished(out).step == step
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    fit_head(store, config(), out, device="cpu")
    assert same_head(out, whole.out)


def test_an_interrupt_at_the_end_leaves_a_finished_head(store, whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit_head(store, config(), tmp_path / "h", device="cpu", on_progress=stop_at(15, interrupt))
    assert same_head(tmp_path / "h", whole.out)
    assert unfinished(tmp_path / "h") is None


def test_the_command_says_what_remains_and_goes_on(store, whole, tmp_path, run, monkeypatch):
    from embedstore_cli import render

    out = tmp_path / "h"
    options = ["--image", "vision", "--text", "words", "--split", "train", "--val-split", "val", "--width", 8]
    options += ["--epochs", 3, "--batch-size", 10, "--dropout", 0.2, "--device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setattr(render.Bars, "update", lambda _, name, done, **more: done == 7 and interrupt())
        code, _, err = run("fit", store.path, "--out", out, *options)
    assert code == 130
    assert "7 of 15 steps are kept" in err
    assert "8 remain: run the same command again" in err
    code, printed, err = run("fit", store.path, "--out", out, *options, "--json")
    assert code == 0
    assert "going on from step 7 of 15" in err
    assert json.loads(printed)["resumed_from"] == 7
    assert same_head(out, whole.out)
    code, _, err = run("fit", store.path, "--out", out, *options, "--checkpoint-minutes", 0, "--overwrite")
    assert code == 2
    assert "checkpoint_minutes 0.0" in err


def test_another_fit_does_not_go_on_from_it(store, tmp_path):
    out = begun(store, tmp_path / "h")
    words = r"(?s)an unfinished fit with another configuration.*lr: begun with 0.001, now 0.002.*--overwrite"
    with pytest.raises(UsageError, match=words):
        fit_head(store, config(lr=2e-3), out, device="cpu")
    other = write_random_store(tmp_path / "other", images=60, seed=5)
    with pytest.raises(UsageError, match=r"(?s)another store is here.*store_fingerprint: begun with"):
        fit_head(other, config(), out, device="cpu")
    assert unfinished(out).step == 6
    found = fit_head(store, config(lr=2e-3), out, device="cpu", overwrite=True)
    assert found.resumed_from is None
    assert same_head(out, fit_head(store, config(lr=2e-3), tmp_path / "new", device="cpu").out)


def test_other_rows_of_the_same_store_are_another_fit(store):
    record = head_record(store, config())
    rows, texts = np.arange(5), np.arange(9)
    ours = Identity.of(config(), record, rows, texts)
    assert Identity.from_json(json.loads(json.dumps(ours.to_json()))) == ours
    ours.refuse_another(Identity.of(config(), record, rows, texts), Path("x"))
    for other in ((rows[1:], texts), (rows, texts[1:]), (np.arange(6), np.arange(8))):
        with pytest.raises(UsageError, match="another set of rows"):
            ours.refuse_another(Identity.of(config(), record, *other), Path("x"))


def test_overwriting_goes_on_too_and_keeps_the_old_head_until_then(store, whole, tmp_path):
    out = tmp_path / "h"
    fit_head(store, config(seed=9), out, device="cpu")
    old = (out / "head.json").read_bytes()
    with pytest.raises(StoppedError):
        fit_head(
            store, config(), out, device="cpu", overwrite=True, checkpoint_steps=2,
            on_progress=stop_at(5, stopped),
        )  # fmt: skip
    assert (out / "head.json").read_bytes() == old
    with pytest.raises(UsageError, match="a finished head is already here"):
        fit_head(store, config(), out, device="cpu")
    assert fit_head(store, config(), out, device="cpu", overwrite=True).resumed_from == 4
    assert same_head(out, whole.out)


def test_a_fit_that_was_killed_while_it_tidied_up_is_finished_again(store, whole, tmp_path):
    out = begun(store, tmp_path / "h")
    kept = (out / CHECKPOINT).read_bytes()
    fit_head(store, config(), out, device="cpu")
    (out / CHECKPOINT).write_bytes(kept)
    fit_head(store, config(), out, device="cpu")
    assert same_head(out, whole.out)
    assert unfinished(out) is None


def test_a_checkpoint_that_cannot_be_read_is_refused(store, tmp_path):
    out = begun(store, tmp_path / "h")
    content = (out / CHECKPOINT).read_bytes()
    for broken in (content[:-1], b"", b"\xff" * 200):
        (out / CHECKPOINT).write_bytes(broken)
        with pytest.raises(HeadError, match=r"(?s)the checkpoint cannot be read.*--overwrite"):
            fit_head(store, config(), out, device="cpu")
    (out / CHECKPOINT).write_bytes(content.replace(b'\\"version\\": 1', b'\\"version\\": 2'))
    with pytest.raises(HeadError, match="of another version of embedstore"):
        fit_head(store, config(), out, device="cpu")
    assert fit_head(store, config(), out, device="cpu", overwrite=True).resumed_from is None


def test_two_fits_do_not_write_to_one_folder(store, tmp_path):
    with FitLog(tmp_path), pytest.raises(UsageError, match="another fit is writing to this folder"):
        fit_head(store, config(), tmp_path, device="cpu")


def test_checkpoints_take_a_hundredth_of_the_time_at_most(store, tmp_path):
    clock, identity = [0.0], Identity.of(config(), head_record(store, config()), np.arange(3), np.arange(3))
    found = Checkpoints(tmp_path, identity, minutes=2, now=lambda: clock[0])

    def due(now, *, epoch_end=False, nbytes=200):
        clock[0] = now
        return found.due(1, epoch_end=epoch_end, nbytes=lambda: nbytes)

    assert [due(119), due(120)] == [False, True]
    assert [due(0.9, epoch_end=True), due(1.0, epoch_end=True)] == [False, True]
    # What it will take is not known yet: it is guessed by its size, here 3 seconds.
    assert [due(299, nbytes=600e6), due(300, nbytes=600e6), due(299, epoch_end=True, nbytes=600e6)] == [
        False, True, False,
    ]  # fmt: skip
    tick = Snapshot(tensors={"a": torch.zeros(2)}, numbers={"run": {"log_bytes": 0}, "learner": {}})
    found._now = lambda: clock.__setitem__(0, clock[0] + 4) or clock[0]
    clock[0] = 300
    found.write(tick, step=1, steps=2)
    found._now = lambda: clock[0]
    assert [due(308 + 399), due(308 + 400), due(308 + 399, epoch_end=True)] == [False, True, False]
    assert unfinished(tmp_path).step == 1
    by_steps = Checkpoints(tmp_path, identity, steps=3, now=lambda: 0.0)
    assert [by_steps.due(n, epoch_end=False, nbytes=int) for n in (2, 3, 4, 6)] == [False, True, False, True]
    with pytest.raises(UsageError, match="checkpoint_steps 0"):
        Checkpoints(tmp_path, identity, steps=0)


def held(*, twice=False, error=None):
    with HeldSignals() as signals:
        interrupt()
        assert signals.waiting == signal.SIGINT
        if twice:
            interrupt()
        if error:
            raise error
        return signals


def test_a_signal_waits_for_the_end_but_not_a_second_one():
    for twice in (False, True):
        with pytest.raises(KeyboardInterrupt):
            held(twice=twice, error=StoppedError() if twice else None)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_that_waits_does_not_hide_an_error():
    with pytest.raises(StoppedError):
        held(error=StoppedError())


@given(rows=st.integers(2, 120), batch=st.integers(2, 30), skip=st.integers(0, 70), group=st.integers(5, 60))
def test_a_plan_after_some_steps_is_the_rest_of_it(rows, batch, skip, group):
    plan = epoch_plan(np.arange(rows), seed=1, epoch=2, batch=batch, block_rows=4, group_rows=group)
    rest = plan.after(skip)
    batches = [plan.rows[a:b].tolist() for a, b in zip(plan.batches[:-1], plan.batches[1:], strict=True)]
    found = [rest.rows[a:b].tolist() for a, b in zip(rest.batches[:-1], rest.batches[1:], strict=True)]
    assert found == batches[skip:]
    assert rest.groups[0] == 0
    assert rest.groups[-1] == rest.steps
    assert set(rest.groups + skip) - {skip} <= set(plan.groups)


@pytest.mark.parametrize("micro", [None, Micro(rows=4, passes=2)])
@pytest.mark.parametrize("buffer_mb", [0.01, 512])
def test_streams_leave_out_steps_without_a_change_to_the_others(store, micro, buffer_mb):
    stream = PairStream(
        store, image="vision", text="words", rows=np.arange(60), batch_size=9, captions=2, buffer_mb=buffer_mb
    )
    counts = [1] * stream.steps if micro is None else [2 * n for n in micro.counts(stream.plan(1)).tolist()]

    def read(source, skip):
        with source.epoch(1, micro=micro, skip=skip) as batches:
            return [
                (b.image.rows.tolist(), b.text.rows.tolist(), b.image.tokens.float().sum().item())
                for b in (batch.to(torch.device("cpu")) for batch in batches)
            ]

    for source in (stream, CachedPairs(stream, torch.device("cpu"))):
        everything = read(source, 0)
        for skip in (1, 4, stream.steps):
            assert read(source, skip) == everything[sum(counts[:skip]) :]


def test_a_snapshot_of_a_checkpoint_is_what_was_written(store, tmp_path):
    out = begun(store, tmp_path / "h", chosen=config(ema=0.5))
    first, again = unfinished(out).snapshot(), unfinished(out).snapshot()
    assert first.numbers == again.numbers
    assert {name.split(".")[0] for name in first.tensors} == {"head", "loss", "average", "optimiser", "kept"}
    assert first.numbers["learner"]["averaged_steps"] == 6
    assert isinstance(unfinished(out).identity.fit, FitConfig)
    assert len(training_data(store, config())[0].rows) == 48
