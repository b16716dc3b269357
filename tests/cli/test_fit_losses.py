"""Losses, micro-batches and optimisers through the command, and what it says where they contradict."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from embedstore.testing.stores import write_random_store
from embedstore_cli.app import app


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_random_store(tmp_path_factory.mktemp("cli") / "my.store", images=60).path


def fit(store, out, *options):
    usual = ("--image", "vision", "--text", "words", "--split", "train", "--width", "8", "--epochs", "2")
    command = ["fit", str(store), "--out", str(out), *usual, "--device", "cpu", *options]
    return CliRunner().invoke(app, command)


def test_every_option_arrives(store, tmp_path):
    done = fit(
        store, tmp_path / "h", "--json",
        "--loss", "sigmoid-sum", "--bias", "-8", "--temperature", "0.05", "--captions", "2",
        "--mask-duplicates", "--batch-size", "24", "--micro-batch", "7", "--optimiser", "lion",
        "--lr", "1e-4", "--beta1", "0.95",
        "--beta2", "0.98", "--clip-norm", "1", "--warmup-steps", "1", "--ema", "0.9",
        "--val-split", "val", "--patience", "1",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    kept = json.loads((tmp_path / "h" / "fit.json").read_text())
    wanted = {
        "loss": "sigmoid-sum", "bias": -8.0, "temperature": 0.05, "captions": 2, "mask_duplicates": True,
        "batch_size": 24, "micro_batch": 7, "optimiser": "lion", "beta1": 0.95, "beta2": 0.98,
        "clip_norm": 1.0, "warmup_steps": 1, "ema": 0.9, "patience": 1,
    }  # fmt: skip
    assert {name: kept[name] for name in wanted} == wanted
    assert told["config"] == kept
    assert told["epochs"] in (1, 2)


def test_three_positives_and_a_share_of_warm_up(store, tmp_path):
    done = fit(store, tmp_path / "h", "--captions", "2", "--positives", "apart", "--warmup-share", "0.5")
    assert done.exit_code == 0, done.output
    assert "2 epochs" in done.output


@pytest.mark.parametrize(
    "options",
    [
        ("--captions", "2", "--mask-duplicates", "--global-weight", "1"),
        ("--head", "dinotxt", "--set", "head_width=4", "--local-weight", "0.5"),
        ("--head", "dalip", "--set", "score=first", "--set", "reduced=4", "--text-token", "identity"),
        ("--head", "sail", "--text-pooling", "mean"),
    ],
    ids=["token", "dinotxt", "dalip", "sail"],
)
def test_sparc_fits_whatever_embeds_words(store, tmp_path, options):
    usual = ("--json", "--loss", "sparc", "--batch-size", "24", "--epochs", "5", "--lr", "3e-3")
    done = fit(store, tmp_path / "h", *usual, *options)
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in (tmp_path / "h" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "epoch"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--loss", "sigmiod"), "did you mean 'sigmoid'"),
        (("--bias", "-1"), "the loss 'clip' has no option 'bias'"),
        (("--loss", "sigmoid", "--positives", "any", "--captions", "2"), "has no option 'positives'"),
        (("--micro-batch", "512"), "a micro-batch is a part of a batch"),
        (("--patience", "3"), "patience needs a validation"),
        (("--optimiser", "sgd"), "optimiser"),
        (("--local-weight", "2"), "the loss 'clip' has no option 'local_weight'"),
        (("--loss", "sparc", "--micro-batch", "8", "--batch-size", "16"), "gradient cache does not keep"),
        (("--loss", "sparc", "--text-pooling", "pooled"), "a pooled text has no single words"),
        (("--loss", "sparc", "--image-local", "identity"), "this head reads no patches"),
        (("--loss", "sparc", "--head", "sail"), "a pooled text has no single words"),
        (("--loss", "sparc", "--head", "dalip"), "no second order"),
    ],
)
def test_contradictions_are_refused_in_one_line(store, tmp_path, options, words):
    done = fit(store, tmp_path / "h", *options)
    assert done.exit_code == 1
    assert words in str(done.exception or "") + done.output + (done.stderr or "")
    assert not (tmp_path / "h").exists()
