"""A fit from end to end on small random stores: what it learns, writes, repeats and refuses."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch

from embedstore.documents import FitConfig, HeadConfig, load_document
from embedstore.errors import HeadError, StoreError, UsageError
from embedstore.fit import fit_config, fit_head
from embedstore.fit.data import hold_out, training_data
from embedstore.losses.clip import ClipLoss
from embedstore.model import load_head
from embedstore.store.selection import split_rows
from embedstore.testing.stores import write_random_store

FILES = {"head.json", "head.safetensors", "fit.json", "fit.svg", "log.jsonl"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_random_store(tmp_path_factory.mktemp("fit") / "store", images=100)


def config(**options):
    small = {"split": "train", "width": 16, "epochs": 3, "batch_size": 20, "lr": 3e-3}
    return fit_config(**{"image": "vision", "text": "words", **small, **options})


def log_of(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def fitted(store, tmp_path_factory):
    seen = []
    out = tmp_path_factory.mktemp("fit") / "head"
    result = fit_head(store.path, config(epochs=15), out, device="cpu", on_progress=seen.append)
    return result, seen


def test_a_fit_learns_to_match_unseen_pairs(store, fitted):
    result, _ = fitted
    head = load_head(result.out)
    rows = split_rows(store, "test")
    texts = rows * 2
    scores = head.embed_images(store["vision"], rows) @ head.embed_texts(store["words"], texts).T
    right = scores.diagonal()[:, None]
    mean_rank = 1 + (scores > right).sum(1).mean()
    # Ten pictures: a blind guess has the mean rank 5.5.
    assert mean_rank < 3
    assert result.loss < log_of(result.out)[1]["loss"] / 2


def test_the_folder_holds_a_head_its_configuration_and_its_log(store, fitted):
    result, _ = fitted
    assert {p.name for p in result.out.iterdir()} == FILES
    record = load_document(HeadConfig, result.out / "head.json")
    content = (result.out / "head.safetensors").read_bytes()
    assert record.weights_sha256 == hashlib.sha256(content).hexdigest()
    assert record.image_card == store["vision"].card
    assert record.text_card == store["words"].card
    assert (record.trained_on, record.chosen, record.chosen_on) == ("train", False, None)
    assert record.store_fingerprint == store.fingerprint
    assert 0.001 <= record.temperature <= 0.5
    assert load_document(FitConfig, result.out / "fit.json") == result.config
    for name in ("head.json", "fit.json"):
        assert str(store.path) not in (result.out / name).read_text()


def test_the_log_and_the_progress_tell_the_same(fitted):
    result, seen = fitted
    lines = log_of(result.out)
    assert [line["kind"] for line in lines][:2] == ["start", "step"]
    assert lines[0]["images"] == 80
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert [line["epoch"] for line in epochs] == list(range(1, 16))
    assert all({"loss", "temperature", "samples_per_second", "loading_seconds"} <= set(e) for e in epochs)
    steps = [line for line in lines if line["kind"] == "step"]
    assert [p.step for p in seen] == list(range(1, 61))
    assert [s["step"] for s in steps] == [p.step for p in seen]
    assert [s["lr"] for s in steps] == pytest.approx([p.lr for p in seen], rel=1e-5)
    assert steps[0]["lr"] == pytest.approx(3e-3 / 4)
    assert seen[-1].lr == pytest.approx(1e-5)
    assert seen[-1].eta == 0
    assert result.steps == 60
    assert json.loads(json.dumps(result.to_dict()))["kept_epoch"] == 15


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(store, tmp_path):
    names = ("a", "b", "c")
    torch.manual_seed(123)
    before = torch.get_rng_state()
    for name, seed in zip(names, (0, 0, 1), strict=True):
        fit_head(store, config(seed=seed), tmp_path / name, device="cpu")
        torch.rand(3)
    weights = [(tmp_path / n / "head.safetensors").read_bytes() for n in names]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]
    torch.manual_seed(123)
    assert torch.equal(torch.get_rng_state(), before)


def test_how_tokens_come_changes_nothing_of_a_fit(store, tmp_path):
    usual = fit_head(store, config(), tmp_path / "usual", device="cpu")
    for name, options in {
        "cached": {"cache_on_device": "yes"},
        "small": {"buffer_mb": 0.01},
        "large": {"buffer_mb": 2000, "cache_on_device": "no"},
    }.items():
        found = fit_head(store, config(), tmp_path / name, device="cpu", **options)
        for file in ("head.safetensors", "head.json", "fit.json"):
            assert (tmp_path / name / file).read_bytes() == (tmp_path / "usual" / file).read_bytes()
        assert found.loss == usual.loss
        assert log_of(tmp_path / name)[0]["cached_bytes"] == found.cached_bytes
        assert (found.cached_bytes > 0) == (name == "cached")
    with pytest.raises(UsageError, match="buffers must hold something"):
        fit_head(store, config(), tmp_path / "none", device="cpu", buffer_mb=0)


@pytest.mark.parametrize(("batch", "lines"), [(20, 4), (4, 20), (3, 14), (2, 20)])
def test_the_log_has_at_most_twenty_steps_an_epoch(store, tmp_path, batch, lines):
    fit_head(store, config(epochs=1, batch_size=batch, width=4), tmp_path / "h", device="cpu")
    assert sum(line["kind"] == "step" for line in log_of(tmp_path / "h")) == lines


def test_the_random_state_of_the_caller_is_left_alone(store, tmp_path):
    torch.manual_seed(9)
    wanted = torch.rand(4)
    torch.manual_seed(9)
    fit_head(store, config(epochs=1), tmp_path / "h", device="cpu")
    assert torch.equal(torch.rand(4), wanted)


def test_the_best_checkpoint_of_a_validation_split_is_kept(store, tmp_path):
    result = fit_head(store, config(epochs=6, val_split="val"), tmp_path / "h", device="cpu")
    sums = [sum(e["recall@1"].values()) for e in log_of(result.out) if e["kind"] == "epoch"]
    assert result.kept_epoch == 1 + int(np.argmax(sums))
    assert sum(result.recall.values()) == pytest.approx(max(sums), rel=1e-5)
    assert (result.head.chosen, result.head.chosen_on) == (True, "val")
    epochs = [e for e in log_of(result.out) if e["kind"] == "epoch"]
    kept = epochs[result.kept_epoch - 1]
    assert result.head.temperature == pytest.approx(kept["temperature"], rel=1e-5)


def test_a_share_of_the_training_images_can_choose_instead(store, tmp_path):
    chosen = config(val_fraction=0.25)
    stream, validation = training_data(store, chosen)
    assert len(validation.images) == 20
    assert not set(stream.rows) & set(validation.images)
    assert set(stream.rows) | set(validation.images) == set(split_rows(store, "train"))
    assert (validation.image_of == np.repeat(np.arange(20), 2)).all()
    result = fit_head(store, chosen, tmp_path / "h", device="cpu")
    assert (result.images, result.head.chosen, result.head.chosen_on) == (60, True, "train")
    assert set(result.recall) == {"text_to_image", "image_to_text"}


def test_holding_out_is_seeded_and_takes_two_at_least():
    rows = np.arange(100, 150)
    held, rest = hold_out(rows, 0.001, 5)
    assert len(held) == 2
    assert sorted([*held, *rest]) == rows.tolist()
    assert (hold_out(rows, 0.3, 5)[0] == hold_out(rows, 0.3, 5)[0]).all()
    assert (hold_out(rows, 0.3, 5)[0] != hold_out(rows, 0.3, 6)[0]).any()


@pytest.mark.parametrize("sides", [{"image_local": "mlp", "text_token": "mlp"}, {"image_pooling": "max"}])
def test_other_sides_fit_too(store, tmp_path, sides):
    result = fit_head(store, config(epochs=1, **sides), tmp_path / "h", device="cpu")
    assert np.isfinite(result.loss)
    assert load_head(result.out).config.image_pooling == sides.get("image_pooling", "mean")


def test_a_loss_that_is_not_finite_ends_the_fit_and_leaves_no_head(store, tmp_path, monkeypatch):
    monkeypatch.setattr(ClipLoss, "forward", lambda self, v, u: (v * u).sum() * float("nan"))
    with pytest.raises(HeadError, match=r"(?s)epoch 1, step 1 of 12: the loss is not finite.*lr .*lower lr"):
        fit_head(store, config(), tmp_path / "h", device="cpu")
    assert {p.name for p in (tmp_path / "h").iterdir()} == {"log.jsonl"}


def test_a_finished_head_is_kept_unless_told(store, tmp_path):
    out = tmp_path / "h"
    fit_head(store, config(epochs=1), out, device="cpu")
    before = (out / "head.json").read_bytes()
    with pytest.raises(UsageError, match="a finished head is already here"):
        fit_head(store, config(epochs=1, seed=1), out, device="cpu")
    assert (out / "head.json").read_bytes() == before
    fit_head(store, config(epochs=1, seed=1), out, device="cpu", overwrite=True)
    assert load_head(out).config.weights_sha256 != json.loads(before)["weights_sha256"]
    with pytest.raises(UsageError, match="the output is a file"):
        fit_head(store, config(), out / "head.json", device="cpu")


def test_what_the_store_has_not_is_refused_with_what_it_has(store, tmp_path):
    for options, error, words in [
        ({"split": "trian"}, UsageError, "train 80, val 10, test 10"),
        ({"val_split": "dev"}, UsageError, "no split 'dev'"),
        ({"image": "visoin"}, StoreError, "did you mean 'vision'"),
        ({"text": "vision"}, UsageError, "one of texts"),
        ({"language": "de"}, UsageError, "languages en 200"),
        ({"head": "tokens"}, UsageError, "did you mean 'token'"),
        ({"loss": "clap"}, UsageError, "did you mean 'clip'"),
        ({"image_local": "identity", "image_cls": "identity"}, HeadError, "nothing is left of the image"),
        ({"text_token": "identity", "text_global": "identity"}, HeadError, "take width 12"),
    ]:
        with pytest.raises(error, match=words):
            fit_head(store, config(**options), tmp_path / "h", device="cpu")
    assert not (tmp_path / "h").exists()


def test_a_text_encoders_own_width_needs_no_text_projector(store, tmp_path):
    chosen = config(epochs=1, width=12, text_token="identity", text_global="identity")
    result = fit_head(store, chosen, tmp_path / "h", device="cpu")
    assert load_head(result.out).embed_texts(store["words"], np.arange(3)).shape == (3, 12)
