"""Lion, averaged weights, clipping, warm-up and early stopping: by hand, and through a fit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from embedstore.errors import UsageError
from embedstore.fit import fit_config, fit_head
from embedstore.fit.average import WeightAverage
from embedstore.fit.lion import Lion
from embedstore.fit.schedule import make_optimiser, warmup_steps
from embedstore.heads.token import TokenHead
from embedstore.losses.base import build_loss
from embedstore.testing.heads import head_config
from embedstore.testing.stores import write_random_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_random_store(tmp_path_factory.mktemp("optimisers") / "store", images=100)


def config(**options):
    small = {"split": "train", "width": 16, "epochs": 3, "batch_size": 20, "lr": 3e-3}
    return fit_config(**{"image": "vision", "text": "words", **small, **options})


def log_of(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def np_lion(p, grads, lr, betas, decay):
    m = np.zeros_like(p)
    for g in grads:
        p = p - lr * (np.sign(betas[0] * m + (1 - betas[0]) * g) + decay * p)
        m = betas[1] * m + (1 - betas[1]) * g
    return p


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_lion_is_its_formula(decay):
    random = np.random.default_rng(0)
    start, grads = random.normal(size=(4, 3)), random.normal(size=(12, 4, 3))
    p = torch.nn.Parameter(torch.from_numpy(start.copy()))
    lion = Lion([p], lr=0.01, betas=(0.8, 0.95), weight_decay=decay)
    for g in grads:
        p.grad = torch.from_numpy(g)
        lion.step()
    np.testing.assert_allclose(
        p.detach().numpy(), np_lion(start, grads, 0.01, (0.8, 0.95), decay), atol=1e-12
    )
    assert lion.step(lambda: 4.0) == 4.0


def test_lion_goes_on_from_its_state():
    random = torch.Generator().manual_seed(0)
    grads = torch.randn(6, 3, generator=random)
    ps = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    whole, parts = (Lion([p], lr=0.1) for p in ps)
    for i, g in enumerate(grads):
        for p in ps:
            p.grad = g.clone()
        whole.step()
        if i == 3:
            kept = parts.state_dict()
            parts = Lion([ps[1]], lr=0.5)
            parts.load_state_dict(kept)
        parts.step()
    assert torch.equal(*ps)


def test_the_optimiser_of_a_configuration():
    head, loss, cpu = TokenHead(head_config()), build_loss("clip"), torch.device("cpu")
    adam = make_optimiser(config(), [head, loss], cpu)
    assert isinstance(adam, torch.optim.AdamW)
    assert [g["betas"] for g in adam.param_groups] == [(0.9, 0.999)] * 2
    assert [g["weight_decay"] for g in adam.param_groups] == [0.02, 0.0]
    lion = make_optimiser(config(optimiser="lion", beta1=0.95), [head, loss], cpu)
    assert isinstance(lion, Lion)
    assert [g["betas"] for g in lion.param_groups] == [(0.95, 0.99)] * 2
    assert [g["weight_decay"] for g in lion.param_groups] == [0.02, 0.0]
    assert make_optimiser(config(beta2=0.98), [head], cpu).defaults["betas"] == (0.9, 0.98)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, 10),
        ({"warmup_epochs": 0.5}, 5),
        ({"warmup_steps": 7}, 7),
        ({"warmup_steps": 0}, 0),
        ({"warmup_share": 0.25}, 8),
        ({"warmup_steps": 99}, 30),
    ],
)
def test_warm_up_in_epochs_steps_or_a_share(options, wanted):
    assert warmup_steps(config(**options), steps=30, epoch=10) == wanted


def test_the_rate_of_a_fit_rises_as_told(store, tmp_path):
    fit_head(store, config(warmup_steps=2), tmp_path / "h", device="cpu")
    rates = [line["lr"] for line in log_of(tmp_path / "h") if line["kind"] == "step"]
    assert rates[:2] == pytest.approx([1.5e-3, 3e-3])
    assert rates[2] < 3e-3


def test_what_contradicts_itself_is_refused():
    with pytest.raises(UsageError, match="warmup_steps and warmup_share exclude each other"):
        config(warmup_steps=1, warmup_share=0.1)
    with pytest.raises(UsageError, match=r"patience needs a validation[\s\S]*val_fraction"):
        config(patience=2)


def test_an_average_is_its_formula():
    head = TokenHead(head_config())
    average = WeightAverage(head, 0.3)
    mine = {k: v.double().clone() for k, v in head.state_dict().items()}
    for step in range(1, 9):
        with torch.no_grad():
            for p in head.parameters():
                p.add_(torch.full_like(p, step * 0.1))
        average.update(head)
        decay = min(0.3, step / (step + 9))
        mine = {k: decay * v + (1 - decay) * head.state_dict()[k].double() for k, v in mine.items()}
    for name, value in average.head.state_dict().items():
        torch.testing.assert_close(value.double(), mine[name], rtol=1e-5, atol=1e-6)
    assert not any(p.requires_grad for p in average.head.parameters())


def test_a_fit_keeps_the_average_and_trains_as_without(store, tmp_path):
    plain = fit_head(store, config(), tmp_path / "plain", device="cpu")
    averaged = fit_head(store, config(ema=0.9), tmp_path / "ema", device="cpu")
    assert averaged.loss == plain.loss
    a, b = (load_file(r.out / "head.safetensors") for r in (plain, averaged))
    assert any(not torch.equal(a[name], b[name]) for name in a)
    none = fit_head(store, config(ema=0.0), tmp_path / "none", device="cpu")
    assert (none.out / "head.safetensors").read_bytes() == (plain.out / "head.safetensors").read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        {"optimiser": "lion", "lr": 3e-4},
        {"ema": 0.5, "val_split": "val"},
        {"loss": "sigmoid", "bias": -5.0},
        {"loss": "sigmoid-sum", "captions": 2, "mask_duplicates": True},
        {"captions": 2, "positives": "any", "micro_batch": 7},
        {"mask_duplicates": True},
    ],
    ids=" ".join,
)
def test_every_option_learns_and_repeats_to_the_byte(store, tmp_path, options):
    chosen = config(**{"epochs": 6, "min_lr": 0.0, **options})
    one, two = (fit_head(store, chosen, tmp_path / name, device="cpu") for name in ("a", "b"))
    assert (one.out / "head.safetensors").read_bytes() == (two.out / "head.safetensors").read_bytes()
    losses = [line["loss"] for line in log_of(one.out) if line["kind"] == "epoch"]
    assert losses[-1] < 0.9 * losses[0]
    assert 0 < one.head.temperature < 1


def test_short_gradients_move_the_first_weights_less(store, tmp_path):
    ways = {"plain": {}, "long": {"clip_norm": 1e9}, "short": {"clip_norm": 1e-12}}
    weights = {
        name: load_file(
            fit_head(store, config(epochs=1, **o), tmp_path / name, device="cpu").out / "head.safetensors"
        )
        for name, o in ways.items()
    }
    torch.manual_seed(0)
    for name, value in weights["plain"].items():
        assert torch.equal(weights["long"][name], value)
    # AdamW's step is lr whatever the length, save where its eps of 1e-8 is far above the gradient: then it is
    # but the decay of matrices that is left, and biases stay where they began.
    moved = {
        way: sum((w[n] - weights["plain"][n]).abs().sum().item() for n in w) for way, w in weights.items()
    }
    assert moved["long"] == 0
    assert moved["short"] > 0


def test_a_fit_that_gets_no_better_stops(store, tmp_path):
    # A rate of nearly nothing: the first validation stays the best.
    chosen = config(epochs=9, lr=1e-12, min_lr=0.0, val_split="val", patience=2)
    found = fit_head(store, chosen, tmp_path / "h", device="cpu")
    assert (found.kept_epoch, found.epochs, found.steps) == (1, 3, 12)
    assert log_of(found.out)[-1]["kind"] == "end"
    whole = fit_head(store, config(epochs=3, val_split="val", patience=3), tmp_path / "w", device="cpu")
    assert (whole.epochs, whole.steps) == (3, 12)
