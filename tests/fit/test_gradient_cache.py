"""The gradient cache against the undivided batch, in float64: dropout, batch norm, captions, masks."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from embedstore.errors import UsageError
from embedstore.fit import fit_config, fit_head
from embedstore.fit.data import caption_numbers
from embedstore.fit.gradient_cache import GradientCache, LargeStep, pairing_of
from embedstore.fit.parts import loss_of_parts
from embedstore.heads.base import Head, build_head
from embedstore.heads.dropout import dropout
from embedstore.heads.segments import Runs
from embedstore.heads.token import TokenHead
from embedstore.losses.base import build_loss
from embedstore.stream.pairs import PairStream
from embedstore.testing.heads import head_config
from embedstore.testing.stores import write_random_store

CPU = torch.device("cpu")
TOKENS = 9


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_random_store(tmp_path_factory.mktemp("cache") / "store", images=45, captions=3)


class ShareNorm(nn.Module):
    """A batch normalisation of a head's own, as `normalises_by_batch` describes them."""

    def __init__(self, channels):
        super().__init__()
        self.eps = 1e-5
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_variance", torch.ones(channels))

    def forward(self, x, shares, count):
        mean = shares @ x
        variance = shares @ (x - mean).square()
        with torch.no_grad():
            self.running_mean.lerp_(mean, 0.1)
            self.running_variance.lerp_(variance * count / (count - 1), 0.1)
        return (x - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias


class NormedHead(Head):
    """Batch normalisation twice on the pictures' side, one behind the other, and once on the texts'."""

    def __init__(self, config):
        super().__init__()
        d, t, e = config.image_width, config.text_width, config.width
        self.config = config
        self.first, self.second = nn.Linear(d, e), nn.Linear(e, e)
        self.inner, self.outer = nn.BatchNorm1d(e), ShareNorm(e)
        self.words, self.normed = nn.Linear(t, e), nn.BatchNorm1d(e, momentum=None)

    def embed_image(self, tokens, prefix=None, pooled=None, weights=None):
        x = self.inner(self.first(tokens.to(self.first.weight.dtype)).transpose(1, 2)).transpose(1, 2)
        x = dropout(functional.gelu(x), self.config.dropout if self.training else 0.0)
        flat = self.second(x).flatten(0, 1)
        flat = self.outer(flat, flat.new_full((len(flat),), 1 / len(flat)), float(len(flat)))
        return functional.normalize(flat.relu().view(*x.shape).mean(1), dim=-1)

    def embed_text(self, tokens, offsets):
        runs = Runs.from_offsets(offsets)
        x = self.normed(self.words(runs.mean(tokens.to(self.words.weight.dtype))))
        return functional.normalize(dropout(x, self.config.dropout if self.training else 0.0), dim=-1)


class Undivided(GradientCache):
    """The same step by plain autograd through one graph, with the layers' own batch statistics."""

    def backward(self, step, epoch, loss_of):
        for _ in range(self.micro.passes):
            (batch,) = step.once()
        v, u = self._image(batch, epoch), self._text(batch, epoch)
        value = loss_of(v, u, batch.owner, batch.text.rows)
        value.backward()
        return value.detach()


def gradients(store, head, loss, *, rows, captions=1, words=False, epoch=3, make=GradientCache):
    """Loss and gradients of the first step, 23 of 45 pictures, in micro-batches of `rows`."""
    stream = PairStream(
        store, image="vision", text="words", rows=np.arange(45), batch_size=30, captions=captions
    )
    cache = make(head, rows=rows, seed=7, device=CPU)
    numbers = caption_numbers(store, stream.texts) if words else None

    def loss_of(image, text, owner, text_rows):
        found = None if numbers is None else numbers[text_rows]
        pairing = pairing_of(owner, found, len(image), CPU)
        return loss_of_parts(loss, head.parts, image, text, pairing=pairing)

    with stream.epoch(epoch, micro=cache.micro) as batches:
        count = cache.micro.counts(stream.plan(epoch)).tolist()[0]
        step = LargeStep(batches=iter(batches), count=count, pictures=23, texts=23 * captions)
        value = cache.backward(step, epoch, loss_of)
        # No micro-batch of the step is left: the next one is of the next step.
        assert next(iter(batches)).image.rows[0] in stream.plan(epoch).rows[23:]
    modules = {"head": head, "loss": loss}
    return value, {f"{k}.{n}": p.grad for k, m in modules.items() for n, p in m.named_parameters()}


def direct(store, head, loss, **options):
    return gradients(store, head, loss, rows=30, make=Undivided, **options)


def same(found, wanted, *, tolerance=1e-10):
    assert found[0].item() == pytest.approx(wanted[0].item(), rel=tolerance)
    assert found[1].keys() == wanted[1].keys()
    for name, grad in wanted[1].items():
        assert (grad is None) == (found[1][name] is None), name
        if grad is not None:
            torch.testing.assert_close(found[1][name], grad, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("rows", [1, 7, 15, 30])
@pytest.mark.parametrize("kind", ["token", "normed", "dalip"])
def test_the_gradient_is_the_undivided_batchs(store, rows, kind):
    torch.manual_seed(1)
    own = {"head": "dalip", "options": {"heads": 2, "reduced": 4}} if kind == "dalip" else {}
    config = head_config(image_width=16, text_width=12, width=10, dropout=0.3, **own)
    whole = NormedHead(config) if kind == "normed" else build_head(config)
    whole = whole.double().train()
    parts = copy.deepcopy(whole)
    wanted = direct(store, whole, build_loss("clip").double())
    found = gradients(store, parts, build_loss("clip").double(), rows=rows)
    same(found, wanted)
    for a, b in zip(parts.buffers(), whole.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"head": "sail"},
        {"head": "dinotxt", "options": {"head_width": 4}},
        {"head": "dalip", "options": {"reduced": 4}},
        {"head": "dalip", "options": {"reduced": 4, "second": "mp", "convention": "dalip"}},
    ],
    ids=lambda o: o["head"],
)
def test_every_head_has_the_undivided_batchs_gradient(store, options):
    torch.manual_seed(0)
    config = head_config(image_width=16, text_width=12, width=12, dropout=0.3, **options)
    whole = build_head(config).double().train()
    parted = copy.deepcopy(whole)
    wanted = direct(store, whole, build_loss("clip").double())
    same(gradients(store, parted, build_loss("clip").double(), rows=7), wanted, tolerance=1e-8)
    for (name, a), b in zip(whole.named_buffers(), parted.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


@pytest.mark.parametrize("loss", ["clip", "sigmoid", "sigmoid-sum"])
@pytest.mark.parametrize("captions", [1, 2])
def test_captions_and_masks_are_those_of_the_whole_step(store, loss, captions):
    torch.manual_seed(2)
    whole = TokenHead(head_config(image_width=16, text_width=12, width=10, dropout=0.3)).double().train()
    parts = copy.deepcopy(whole)
    options = {"captions": captions, "words": True}
    wanted = direct(store, whole, build_loss(loss).double(), **options)
    same(gradients(store, parts, build_loss(loss).double(), rows=8, **options), wanted)
    unmasked = direct(store, copy.deepcopy(parts), build_loss(loss).double(), captions=captions)
    assert unmasked[0].item() != pytest.approx(wanted[0].item(), rel=1e-5)


def test_randomness_of_torch_is_the_same_in_both_passes(store):
    """A head with `nn.Dropout` has the gradient of the embeddings that the loss has seen."""

    class Plain(NormedHead):
        def __init__(self, config):
            super().__init__(config)
            self.drop = nn.Dropout(0.5)

        def embed_image(self, tokens, prefix=None, pooled=None, weights=None):
            x = self.drop(self.first(tokens.double()).mean(1))
            seen.append(x.detach().clone())
            return functional.normalize(x, dim=-1)

        def embed_text(self, tokens, offsets):
            x = self.drop(self.words(Runs.from_offsets(offsets).mean(tokens.double())))
            return functional.normalize(x, dim=-1)

    seen = []
    head = Plain(head_config(image_width=16, text_width=12, width=10)).double().train()
    del head.inner, head.outer, head.normed
    gradients(store, head, build_loss("clip").double(), rows=10)
    assert len(seen) == 6
    for first, second in zip(seen[:3], seen[3:], strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(seen[0], seen[1])


def test_equal_words_have_equal_numbers(store):
    texts = store.texts()["text"].to_pylist()
    rows = np.arange(4, len(texts))
    numbers = caption_numbers(store, rows)
    assert (numbers[:4] == -1).all()
    for words in set(texts[4:]):
        assert len({numbers[i] for i in rows if texts[i] == words}) == 1
    assert len(set(numbers[4:].tolist())) == len(set(texts[4:]))


def config(**options):
    small = {"width": 16, "epochs": 2, "batch_size": 20, "lr": 3e-3, "dropout": 0.2}
    return fit_config(**{"image": "vision", "text": "words", **small, **options})


def test_a_fit_does_not_depend_on_the_micro_batch_nor_on_how_tokens_come(store, tmp_path):
    from safetensors.torch import load_file

    ways = {
        "whole": (20, {}),
        "parts": (6, {}),
        "again": (6, {"buffer_mb": 0.01}),
        "cached": (6, {"cache_on_device": "yes"}),
    }
    results = {
        name: fit_head(store, config(micro_batch=rows), tmp_path / name, device="cpu", **options)
        for name, (rows, options) in ways.items()
    }
    weights = {name: load_file(r.out / "head.safetensors") for name, r in results.items()}
    for name in ("again", "cached"):
        assert all(torch.equal(weights[name][k], w) for k, w in weights["parts"].items())
    for key, w in weights["whole"].items():
        torch.testing.assert_close(weights["parts"][key], w, rtol=1e-3, atol=2e-5)
    assert results["parts"].loss == pytest.approx(results["whole"].loss, rel=1e-4)
    assert results["parts"].steps == 2 * 3


def test_it_learns_in_micro_batches(store, tmp_path):
    chosen = config(epochs=15, micro_batch=7)
    first = fit_head(store, config(micro_batch=7), tmp_path / "first", device="cpu")
    found = fit_head(store, chosen, tmp_path / "h", device="cpu")
    assert found.loss < 0.7 * first.loss


def test_a_micro_batch_is_no_larger_than_the_batch():
    with pytest.raises(UsageError, match="micro_batch 21, batch_size 20"):
        config(micro_batch=21)
