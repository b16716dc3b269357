"""Fits in bfloat16: close to float32 for every head, with weights, logits and statistics in float32."""

import json

import numpy as np
import pytest
import torch

from embedstore.documents import FitConfig, load_document
from embedstore.errors import UsageError
from embedstore.fit import fit_config, fit_head
from embedstore.fit.data import training_data
from embedstore.fit.embedding import precision_of
from embedstore.fit.learner import Learner
from embedstore.fit.record import head_record
from embedstore.fit.synced_norm import SyncedStatistics
from embedstore.heads.batch_norm import TokenBatchNorm
from embedstore.testing.stores import write_random_store

CPU = torch.device("cpu")
SMALL = {"heads": 2, "reduced": 4}
HEADS = {
    "token": {},
    "max": {"image_pooling": "max"},
    "mlp": {"image_local": "mlp", "text_token": "mlp", "text_global": "linear"},
    "linear": {"image_local": "linear", "image_cls": "mlp"},
    "sail": {"head": "sail"},
    "dinotxt": {"head": "dinotxt", "options": {"head_width": 4}},
    **{k: {"head": "dalip", "options": {**SMALL, "second": k}} for k in ("mbdc", "bdc", "mp", "kspd")},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_random_store(tmp_path_factory.mktemp("precision") / "store", images=60)


def config(**options):
    small = {"split": "train", "width": 16, "epochs": 2, "batch_size": 16, "dropout": 0.0}
    return fit_config(**{"image": "vision", "text": "words", **small, **options})


def gradients(store, chosen, device=CPU):
    """Loss and gradients of one batch."""
    stream, _ = training_data(store, chosen)
    learner = Learner(head_record(store, chosen), chosen, device=device, epoch_steps=stream.steps)
    seen = {}
    learner.loss.register_forward_hook(lambda _, given, out: seen.update(given=given, loss=out))
    with stream.epoch(0) as batches:
        loss = learner._loss_of_batch(next(iter(batches)))
    loss.backward()
    assert all(side.dtype == torch.float32 for side in seen["given"][:2])
    for side in seen["given"][:2]:
        lengths = side.detach().norm(dim=1)
        # Unit vectors, or the parts of a joint one, to the precision of float32.
        torch.testing.assert_close(lengths, lengths[:1].expand_as(lengths), rtol=1e-5, atol=1e-5)
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in learner.head.parameters())
    return loss.item(), torch.cat([p.grad.flatten() for p in learner.head.parameters()]).cpu()


@pytest.mark.parametrize("head", HEADS)
def test_loss_and_gradient_are_close_to_those_of_float32(store, head):
    wide, exact = gradients(store, config(precision="float32", **HEADS[head]))
    half, near = gradients(store, config(precision="bfloat16", **HEADS[head]))
    assert torch.isfinite(near).all()
    assert half == pytest.approx(wide, rel=0.02)
    assert half != wide
    assert torch.nn.functional.cosine_similarity(exact, near, dim=0) > 0.99


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"head": "dalip", "options": SMALL, "micro_batch": 6, "ema": 0.9},
        {"loss": "sigmoid", "captions": 2, "dropout": 0.1, "micro_batch": 8},
        {"loss": "sparc"},
    ],
)
def test_a_whole_fit_in_bfloat16_ends_near_that_in_float32(store, tmp_path, options):
    found = {}
    for precision in ("float32", "bfloat16"):
        out = tmp_path / precision
        found[precision] = fit_head(store, config(precision=precision, **options), out, device="cpu")
        start = json.loads((out / "log.jsonl").read_text().splitlines()[0])
        assert start["precision"] == precision
        assert load_document(FitConfig, out / "fit.json").precision == precision
    assert np.isfinite(found["bfloat16"].loss)
    assert found["bfloat16"].loss == pytest.approx(found["float32"].loss, rel=0.05)


class OneProcess:
    """What processes exchange, of a single one."""

    def total_with_gradient(self, x):
        return x


def test_several_processes_take_batch_statistics_in_float32_too():
    torch.manual_seed(3)
    ours, plain = TokenBatchNorm(6), TokenBatchNorm(6)
    x, shares = (3 + torch.randn(50, 6)).bfloat16(), torch.full((50,), 1 / 50)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wanted = plain(x, shares, 50.0)
        with SyncedStatistics(ours, OneProcess()).synced():
            found = ours(x, shares, 50.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(ours.running_mean, plain.running_mean)
    torch.testing.assert_close(ours.running_variance, plain.running_variance)


def test_by_default_the_device_decides_and_nothing_is_said_of_it(store, tmp_path):
    assert precision_of(config(), CPU) == "float32"
    assert precision_of(config(precision="bfloat16"), CPU) == "bfloat16"
    assert "precision" not in config().model_dump(mode="json")
    assert FitConfig.model_validate(config().model_dump(mode="json")) == config()
    usual = fit_head(store, config(epochs=1), tmp_path / "a", device="cpu")
    asked = fit_head(store, config(epochs=1, precision="float32"), tmp_path / "b", device="cpu")
    assert usual.head.weights_sha256 == asked.head.weights_sha256
    assert "precision" not in (tmp_path / "a" / "fit.json").read_text()
    with pytest.raises(UsageError, match="precision: input should be 'auto', 'float32' or 'bfloat16'"):
        config(precision="half")


def test_the_option_reaches_the_fit(store, tmp_path, run):
    out = tmp_path / "h"
    options = ["--image", "vision", "--text", "words", "--epochs", 1, "--width", 8, "--device", "cpu"]
    code, printed, _ = run("fit", store.path, "--out", out, *options, "--precision", "bfloat16", "--json")
    assert code == 0
    assert json.loads(printed)["config"]["precision"] == "bfloat16"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("head", HEADS)
def test_a_gpu_takes_bfloat16_by_itself(store, head):
    cuda = torch.device("cuda")
    assert precision_of(config(), cuda) == "bfloat16"
    wide, exact = gradients(store, config(precision="float32", **HEADS[head]))
    half, near = gradients(store, config(**HEADS[head]), cuda)
    assert half == pytest.approx(wide, rel=0.03)
    assert torch.nn.functional.cosine_similarity(exact, near, dim=0) > 0.98
