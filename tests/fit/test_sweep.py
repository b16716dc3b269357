"""Many heads in one pass: each the same to the bit as by itself, whatever happens to the others."""

from __future__ import annotations

import json

import pytest
import torch

from embedstore.errors import HeadError, UsageError
from embedstore.fit import fit_head, fit_sweep, read_sweep
from embedstore.fit.files import read_log
from embedstore.fit.learner import Learner
from embedstore.model import load_head
from embedstore.store import create_subset
from embedstore.stream.pairs import PairStream
from embedstore.testing.stores import write_random_store

BASE = (
    'image = "vision"\ntext = "words"\nsplit = "train"\nwidth = 16\nepochs = 3\nbatch_size = 20\nlr = 3e-3\n'
)
MANY = (
    BASE
    + """val_split = "val"

[[fit]]
name = "usual"

[[fit]]
name = "other"
seed = 1
epochs = 1

[[fit]]
name = "short"
epochs = 1
lr = 1e-3

[[fit]]
name = "averaged"
ema = 0.9
loss = "sigmoid"
patience = 1
epochs = 6

[[fit]]
name = "second"
head = "dalip"
options = { heads = 2, reduced = 4, lambda1 = 0.5 }

[[fit]]
name = "half"
precision = "bfloat16"
epochs = 1

[[fit]]
name = "pooled"
head = "sail"

[[fit]]
name = "masked"
mask_duplicates = true
clip_norm = 0.1
"""
)
FILES = ("head.safetensors", "head.json", "fit.json")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_random_store(tmp_path_factory.mktemp("sweep") / "store", images=100)


def members(tmp_path, text, **options):
    file = tmp_path / "grid.toml"
    file.write_text(text, encoding="utf-8")
    return read_sweep(file, **options)


def same_as_alone(store, tmp_path, found, out):
    for member in found:
        alone = fit_head(store, member.config, tmp_path / "alone" / member.name, device="cpu")
        for file in FILES:
            assert (out / member.name / file).read_bytes() == (alone.out / file).read_bytes(), member.name
        ours, theirs = (
            [line["loss"] for line in read_log(folder) if "loss" in line]
            for folder in (out / member.name, alone.out)
        )
        assert ours == theirs


def test_every_member_equals_the_same_fit_alone(store, tmp_path):
    found = members(tmp_path, MANY)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    result = fit_sweep(store, found, tmp_path / "out", device="cpu")
    assert torch.equal(torch.get_rng_state(), before)
    same_as_alone(store, tmp_path, found, tmp_path / "out")
    assert [m.name for m in result.members] == [m.name for m in found]
    assert {m.status for m in result.members} == {"fitted"}
    # Another seed has another order, and pooled texts are read by one head: three streams.
    assert [len(each.names) for each in result.passes] == [6, 1, 1]
    assert json.loads((tmp_path / "out" / "sweep.json").read_text()) == result.to_dict()
    best = max(result.members, key=lambda m: m.mean_recall)
    assert result.ranked[0].mean_recall == best.mean_recall


def test_large_steps_are_taken_in_parts_by_each(store, tmp_path):
    text = (
        BASE.replace("epochs = 3", "epochs = 2\nmicro_batch = 7\ncaptions = 2")
        + """
[[fit]]
name = "token"
[[fit]]
name = "second"
head = "dalip"
options = { heads = 2, reduced = 4 }
[[fit]]
name = "light"
head = "dinotxt"
"""
    )
    found = members(tmp_path, text)
    result = fit_sweep(store, found, tmp_path / "out", device="cpu")
    same_as_alone(store, tmp_path, found, tmp_path / "out")
    assert len(result.passes) == 1


def test_tokens_are_read_once_for_all(store, tmp_path, monkeypatch):
    read = []
    usual = PairStream._read
    monkeypatch.setattr(
        PairStream, "_read", lambda self, unit, *rest: read.append(len(unit.rows)) or usual(self, unit, *rest)
    )
    found = members(tmp_path, BASE + "[grid]\nlr = [1e-3, 2e-3, 3e-3]\ndropout = [0.0, 0.1]\n")
    assert len(found) == 6
    fit_sweep(store, found, tmp_path / "out", device="cpu")
    assert sum(read) == 3 * 80


def test_one_that_fails_leaves_the_others_as_they_are(store, tmp_path, monkeypatch):
    text = BASE + '[[fit]]\nname = "a"\n[[fit]]\nname = "bad"\nlr = 4e-3\n[[fit]]\nname = "big"\nlr = 5e-3\n'
    found = members(tmp_path, text + '[[fit]]\nname = "z"\nlr = 2e-3\n')
    usual = Learner.learn

    def learn(self, batch):
        if self.config.lr == 4e-3 and self.step == 5:
            raise HeadError("the loss is not finite")
        if self.config.lr == 5e-3:
            raise torch.OutOfMemoryError("no room")
        return usual(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(Learner, "learn", learn)
        result = fit_sweep(store, found, tmp_path / "out", device="cpu")
    assert {m.name: m.error for m in result.failed} == {"bad": "the loss is not finite", "big": "no room"}
    assert [m.name for m in result.ranked] == ["a", "z", "bad", "big"]
    assert not (tmp_path / "out" / "bad" / "head.json").exists()
    assert read_log(tmp_path / "out" / "bad")[-1]["kind"] == "failed"
    same_as_alone(store, tmp_path, [found[0], found[3]], tmp_path / "out")
    again = fit_sweep(store, found, tmp_path / "out", device="cpu")
    assert {m.name: m.status for m in again.members} == {
        "a": "kept", "bad": "fitted", "big": "fitted", "z": "kept",
    }  # fmt: skip
    same_as_alone(store, tmp_path / "b", found, tmp_path / "out")


def test_a_failure_within_a_step_in_parts_costs_the_next_head_nothing(store, tmp_path, monkeypatch):
    text = BASE.replace("epochs = 3", "epochs = 1\nmicro_batch = 7")
    found = members(tmp_path, text + '[[fit]]\nname = "bad"\nlr = 9e-3\n[[fit]]\nname = "good"\n')
    usual = Learner._finite

    def finite(self, value):
        return usual(self, float("nan") if self.config.lr == 9e-3 and self.step == 1 else value)

    with monkeypatch.context() as patched:
        patched.setattr(Learner, "_finite", finite)
        result = fit_sweep(store, found, tmp_path / "out", device="cpu")
    assert "epoch 1, step 2 of 4: the loss is not finite" in result.failed[0].error
    same_as_alone(store, tmp_path, found[1:], tmp_path / "out")


def test_what_is_finished_is_not_fitted_again(store, tmp_path):
    found = members(tmp_path, BASE + "[grid]\nlr = [1e-3, 2e-3]\n")
    first = fit_sweep(store, found[:1], tmp_path / "out", device="cpu")
    second = fit_sweep(store, found, tmp_path / "out", device="cpu")
    assert [m.status for m in second.members] == ["kept", "fitted"]
    assert second.members[0].loss == first.members[0].loss
    assert second.passes[0].names == ("lr=0.002",)
    third = fit_sweep(store, found, tmp_path / "out", device="cpu")
    assert not third.passes
    assert load_head(tmp_path / "out" / "lr=0.001").config.width == 16
    other = members(tmp_path, BASE + "[grid]\nlr = [1e-3]\n", epochs=1)
    with pytest.raises(UsageError, match=r"another configuration or store is already here"):
        fit_sweep(store, other, tmp_path / "out", device="cpu")
    assert fit_sweep(store, other, tmp_path / "out", device="cpu", overwrite=True).members[0].epochs == 1


def test_what_no_fit_could_do_is_refused_before_any(store, tmp_path):
    found = members(tmp_path, BASE + '[grid]\nhead = ["token", "sial"]\n')
    with pytest.raises(UsageError, match=r"head=sial: .*'sial'(?s:.*)did you mean 'sail'"):
        fit_sweep(store, found, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("bias = -3.0", "b: the loss 'clip' has no option 'bias'"),
        ('loss = "sparc"\nmicro_batch = 4', "b: micro_batch: the loss 'sparc' compares tokens"),
        ('loss = "sparc"\nhead = "sail"', "b: head 'sail': the loss 'sparc' compares single patches"),
        ('head = "dalip"\noptions = { heads = 3 }', "b: heads: 'mbdc' cannot cut the joint width"),
        ('language = "de"', "b: no text has the role 'caption' in the language 'de'"),
        ('rows = "nobody"', "b: .*no subset and no file of ids is named 'nobody'"),
        ("temperature = 7.0", "b: temperature: bad temperature"),
    ],
)
def test_what_the_head_of_a_later_pass_could_not_do_is_refused_before_any(store, tmp_path, fields, words):
    found = members(tmp_path, BASE + f'[[fit]]\nname = "a"\n[[fit]]\nname = "b"\nseed = 1\n{fields}\n')
    with pytest.raises((UsageError, HeadError), match=words):
        fit_sweep(store, found, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_an_unfinished_fit_of_another_head_is_refused_before_any(store, tmp_path):
    text = BASE + '[[fit]]\nname = "a"\n[[fit]]\nname = "b"\nseed = 1\n'
    other = members(tmp_path, text, lr=5e-3)[1]

    def stop(at):
        if at.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_head(
            store,
            other.config,
            tmp_path / "out" / "b",
            device="cpu",
            checkpoint_steps=1,
            on_progress=stop,
        )
    with pytest.raises(UsageError, match=r"an unfinished fit with another configuration is here"):
        fit_sweep(store, members(tmp_path, text), tmp_path / "out", device="cpu")
    assert not (tmp_path / "out" / "a").exists()


def test_mixes_are_varied_stopped_and_gone_on_with(store, tmp_path, monkeypatch):
    for name, first in (("even", 0), ("odd", 1)):
        create_subset(store, name, {"row": range(first, 100, 2)}, overwrite=True)
    text = BASE + "[grid]\nmix = [{ odd = 1, even = 1 }, { odd = 1, even = 3.5 }]\nlr = [1e-3, 2e-3]\n"
    found = members(tmp_path, text)
    assert found[2].name == "mix=odd=1,even=3.5,lr=0.001"
    usual, steps = Learner.learn, []

    def learn(self, batch):
        steps.append(0)
        if len(steps) == 16:
            raise KeyboardInterrupt
        return usual(self, batch)

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(Learner, "learn", learn)
        with pytest.raises(KeyboardInterrupt):
            fit_sweep(store, found, out, device="cpu", checkpoint_steps=2)
    result = fit_sweep(store, found, out, device="cpu")
    assert len(result.passes) == 2
    same_as_alone(store, tmp_path, found, out)
    assert "odd=1, even=3.5" in (out / "sweep.svg").read_text()
    assert json.loads((out / "sweep.json").read_text())["members"][2]["varied"]["mix"]["even"] == 3.5


def test_progress_tells_passes_heads_and_steps(store, tmp_path):
    seen = []
    found = members(tmp_path, BASE + "[grid]\nseed = [0, 1]\nepochs = [1, 2]\n")
    fit_sweep(store, found, tmp_path / "out", device="cpu", on_progress=seen.append)
    assert [(p.number, p.passes, p.heads, p.step) for p in seen[:8]] == [
        (1, 2, 2, 1), (1, 2, 2, 2), (1, 2, 2, 3), (1, 2, 2, 4),
        (1, 2, 1, 5), (1, 2, 1, 6), (1, 2, 1, 7), (1, 2, 1, 8),
    ]  # fmt: skip
    assert (seen[-1].number, seen[-1].step, seen[-1].steps) == (2, 8, 8)


def test_a_sweep_that_was_stopped_goes_on_to_the_same_bits(store, tmp_path, monkeypatch):
    found = members(tmp_path, MANY)
    usual = Learner.learn
    steps = []

    def learn(self, batch):
        steps.append(0)
        if len(steps) == 27:
            raise KeyboardInterrupt
        return usual(self, batch)

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(Learner, "learn", learn)
        with pytest.raises(KeyboardInterrupt):
            fit_sweep(store, found, out, device="cpu", checkpoint_steps=3)
    assert {m.name for m in found if (out / m.name / "head.json").exists()} == {"short", "half"}
    left = {m.name for m in found if (out / m.name / "checkpoint.safetensors").exists()}
    assert left == {"usual", "averaged", "second", "masked"}
    # One that lost its checkpoint begins anew beside those that have theirs.
    (out / "second" / "checkpoint.safetensors").unlink()
    seen = []
    result = fit_sweep(store, found, out, device="cpu", on_progress=seen.append)
    assert (seen[0].resumed, seen[0].step) == (3, 1)
    assert [m.status for m in result.members].count("kept") == 2
    same_as_alone(store, tmp_path, found, out)
    assert not list(out.glob("*/checkpoint.safetensors"))
