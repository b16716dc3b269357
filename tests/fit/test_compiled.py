"""Compiled fits: the numbers of the uncompiled, few programs, and a warning where nothing can be compiled.

All tests but one trace programs as ever and run them without generating code, which takes most of the time.
"""

import json
import shutil
import warnings
from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters

from embedstore.documents import FitConfig, load_document
from embedstore.errors import UsageError
from embedstore.fit import compiled, fit_config, fit_head, fit_sweep
from embedstore.fit.grid import Member
from embedstore.testing.stores import write_random_store

LINEAR = {"image_local": "linear", "image_cls": "identity", "text_token": "linear", "text_global": "identity"}
SECOND = {"heads": 2, "reduced": 4}
FITS = {
    "token": {},
    "sail": {"head": "sail", "precision": "bfloat16"},
    "dinotxt": {"head": "dinotxt", "options": {"head_width": 4, "blocks": 1}, "loss": "sparc"},
    "dalip": {"head": "dalip", "options": SECOND},
    "parts": {"micro_batch": 7, "captions": 2, "ema": 0.9, **LINEAR, "text_token": "token"},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_random_store(tmp_path_factory.mktemp("compiled") / "store", images=60)


@pytest.fixture(autouse=True)
def _fresh():
    compiled.compiler_fault.cache_clear()
    torch._dynamo.reset()
    yield
    compiled.compiler_fault.cache_clear()


@pytest.fixture
def traced(monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


def config(**options):
    small = {"split": "train", "width": 16, "epochs": 2, "batch_size": 16, "dropout": 0.1, "lr": 3e-3}
    return fit_config(**{"image": "vision", "text": "words", **small, **options})


def start(out):
    return json.loads((out / "log.jsonl").read_text().splitlines()[0])


def check_alike(one, other):
    """Both fits made the same steps, up to rounding."""
    assert one.loss == pytest.approx(other.loss, rel=1e-4)
    assert one.head.temperature == pytest.approx(other.head.temperature, rel=1e-5)


@pytest.mark.parametrize("name", FITS)
def test_few_programs_make_the_numbers_of_the_uncompiled(store, tmp_path, traced, name):
    usual = fit_head(store, config(**FITS[name]), tmp_path / "usual", device="cpu")
    before, programs = counters["stats"]["unique_graphs"], []

    def count(at):
        programs.append((at.epoch, counters["stats"]["unique_graphs"] - before))

    both = config(**FITS[name], compile=True)
    found = fit_head(store, both, tmp_path / "compiled", device="cpu", on_progress=count)
    check_alike(found, usual)
    sides = ["image"] if name == "dalip" else ["image", "text"]
    assert start(tmp_path / "compiled")["compiled"] == sides
    assert start(tmp_path / "usual")["compiled"] == []
    first = max(seen for epoch, seen in programs if epoch == 1)
    # One for the check and one a side; parts of two sizes, with and without a graph, are four more.
    assert len(sides) <= first <= (9 if name == "parts" else 3)
    assert programs[-1] == (2, first)


def test_it_is_the_configurations_since_numbers_change(store, tmp_path, traced):
    assert "compile" not in config().model_dump(mode="json")
    out = tmp_path / "h"

    def stop(at):
        if at.step == 2:
            raise KeyboardInterrupt

    both = config(compile=True, **LINEAR)
    with pytest.raises(KeyboardInterrupt):
        fit_head(store, both, out, device="cpu", checkpoint_steps=1, on_progress=stop)
    with pytest.raises(UsageError, match="another configuration") as bad:
        fit_head(store, config(**LINEAR), out, device="cpu")
    assert "compile" in str(bad.value)
    found = fit_head(store, both, out, device="cpu")
    assert found.resumed_from
    check_alike(found, fit_head(store, both, tmp_path / "whole", device="cpu"))
    assert load_document(FitConfig, out / "fit.json").compile is True


def test_members_of_a_sweep_have_their_own_programs(store, tmp_path, traced):
    members = [
        Member(name=f"w{width}", config=config(compile=width != 8, width=width, **LINEAR), varied={})
        for width in (8, 12, 16)
    ]
    before = counters["stats"]["unique_graphs"]
    fit_sweep(store, members, tmp_path / "sweep", device="cpu")
    assert counters["stats"]["unique_graphs"] - before == 1 + 2 * 2
    for member in members:
        lone = fit_head(store, member.config, tmp_path / member.name, device="cpu")
        kept = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["members"]
        assert next(m for m in kept if m["name"] == member.name)["loss"] == pytest.approx(lone.loss, rel=1e-4)


def test_statistics_of_batches_in_parts_are_refused(store, tmp_path, traced):
    with pytest.raises(UsageError, match="compile and micro_batch exclude each other"):
        fit_head(store, config(compile=True, **FITS["dalip"], micro_batch=8), tmp_path / "h", device="cpu")
    assert not (tmp_path / "h").exists()


def test_without_a_compiler_one_warning_is_given_and_the_fit_goes_on(store, tmp_path, monkeypatch, run):
    def broken(_function):
        def call(*_):
            raise RuntimeError("\nInvalidCxxCompiler: no working C++ compiler\nSet TORCHDYNAMO_VERBOSE=1")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    told = "nothing can be compiled for cpu here: InvalidCxxCompiler: no working C\\+\\+ compiler$"
    with pytest.warns(compiled.UncompiledWarning, match=told):
        found = fit_head(store, config(compile=True), tmp_path / "h", device="cpu")
    assert start(tmp_path / "h")["compiled"] == []
    usual = fit_head(store, config(), tmp_path / "usual", device="cpu")
    assert found.head.weights_sha256 == usual.head.weights_sha256
    options = ["--image", "vision", "--text", "words", "--epochs", 1, "--width", 8, "--device", "cpu"]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        code, _, said = run("fit", store.path, "--out", tmp_path / "cli", *options, "--compile")
    assert code == 0
    assert said.count("warning: the head is not compiled, since nothing can be compiled for cpu here") == 1


@pytest.mark.slow
def test_a_fit_by_generated_code(store, tmp_path, run):
    if shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("needs a C++ compiler")
    options = [
        "--image",
        "vision",
        "--text",
        "words",
        "--epochs",
        2,
        "--width",
        8,
        "--device",
        "cpu",
        "--json",
    ]
    sides = ["--image-local", "linear", "--image-cls", "identity", "--text-token", "linear"]
    sides += ["--text-global", "identity", "--device", "cpu", "--split", "train", "--batch-size", 16]
    losses = {}
    for name in ("--compile", "--no-compile"):
        out = tmp_path / name
        code, printed, _ = run("fit", store.path, "--out", out, *options, *sides, name)
        assert code == 0
        losses[name] = json.loads(printed)["loss"]
    assert start(tmp_path / "--compile")["compiled"] == ["image", "text"]
    assert losses["--compile"] == pytest.approx(losses["--no-compile"], rel=1e-4)
