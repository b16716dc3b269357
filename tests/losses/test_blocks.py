"""Losses in blocks against slow sums written entry by entry and against plain ones; their gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embedstore.errors import UsageError
from embedstore.losses import LOSSES
from embedstore.losses.base import Pairing, build_loss
from embedstore.losses.clip import ClipLoss, clip_loss, contrastive
from embedstore.losses.sigmoid import SigmoidLoss, SigmoidSumLoss, sigmoid_loss

OWNER = np.array([0, 0, 1, 2, 2, 2, 3, 4])
# Text 2 (of picture 1) says what text 4 (of picture 2) says, text 6 what 7 does.
WORDS = np.array([10, 11, 12, 13, 12, 14, 15, 15])


def units(seed, n, e=6):
    x = np.random.default_rng(seed).normal(size=(n, e))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def np_negatives(owner, words, pictures):
    """Which text is a negative of which picture, entry by entry."""
    found = np.ones((pictures, len(owner)), bool)
    for i in range(pictures):
        own = {words[j] for j in range(len(owner)) if owner[j] == i} if words is not None else set()
        for j in range(len(owner)):
            if owner[j] == i or (words is not None and words[j] in own):
                found[i, j] = False
    return found


def np_lse(values):
    values = np.array(list(values))
    return values.max() + np.log(np.exp(values - values.max()).sum()) if len(values) else -np.inf


def np_contrastive(v, u, tau, owner, words, positives):
    logits, negative = v @ u.T / tau, np_negatives(owner, words, len(v))
    of_pictures, of_texts = 0.0, 0.0
    for i in range(len(v)):
        own = [j for j in range(len(u)) if owner[j] == i]
        others = [logits[i, j] for j in range(len(u)) if negative[i, j]]
        all_own = [logits[i, j] for j in own]
        if positives == "mean":
            terms = [np_lse(others + all_own) - p for p in all_own]
        elif positives == "apart":
            terms = [np_lse([*others, p]) - p for p in all_own]
        else:
            terms = [np_lse(others + all_own) - np_lse(all_own)]
        of_pictures += np.mean(terms)
        of_texts += np.mean(
            [
                np_lse([logits[i, j], *(logits[k, j] for k in range(len(v)) if negative[k, j])])
                - logits[i, j]
                for j in own
            ]
        )
    return (of_pictures + of_texts) / (2 * len(v))


def np_sigmoid(v, u, scale, bias, owner, words, reduction):
    negative = np_negatives(owner, words, len(v))
    total, count = 0.0, 0
    for i in range(len(v)):
        for j in range(len(u)):
            z = 1 if owner[j] == i else -1 if negative[i, j] else 0
            if z:
                total -= np.log(1 / (1 + np.exp(-z * (scale * (v[i] @ u[j]) + bias))))
                count += 1
    return total / (count if reduction == "mean" else len(u))


def tensors(*arrays, dtype=torch.float32):
    return [torch.from_numpy(a).to(dtype) for a in arrays]


def pairing(words=True):
    return Pairing(owner=torch.from_numpy(OWNER), words=torch.from_numpy(WORDS) if words else None)


@pytest.mark.parametrize("rows", [1, 2, 5, None])
@pytest.mark.parametrize("positives", ["mean", "apart", "any"])
@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize("tau", [0.01, 0.07])
def test_contrastive_is_its_formula(rows, positives, words, tau):
    v, u = units(0, 5), units(1, 8)
    found = contrastive(*tensors(v, u), tau, pairing=pairing(words), positives=positives, rows=rows)
    wanted = np_contrastive(v, u, tau, OWNER, WORDS if words else None, positives)
    assert float(found) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 5, None])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("words", [False, True])
def test_sigmoid_is_its_formula(rows, reduction, words):
    v, u = units(2, 5), units(3, 8)
    scale, bias = torch.tensor(10.0), torch.tensor(-3.0)
    found = sigmoid_loss(*tensors(v, u), scale, bias, pairing=pairing(words), reduction=reduction, rows=rows)
    wanted = np_sigmoid(v, u, 10.0, -3.0, OWNER, WORDS if words else None, reduction)
    assert float(found) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("positives", ["mean", "apart", "any"])
def test_double_precision_stays_double(positives):
    v, u = units(0, 7), units(1, 14)
    owner = np.arange(7).repeat(2)
    pairing = Pairing(owner=torch.from_numpy(owner))
    found = contrastive(*tensors(v, u, dtype=torch.float64), 0.07, pairing=pairing, positives=positives)
    assert float(found) == pytest.approx(np_contrastive(v, u, 0.07, owner, None, positives), rel=1e-9)
    one = Pairing(owner=torch.arange(7))
    found = contrastive(*tensors(v, u[:7], dtype=torch.float64), 0.07, pairing=one, positives=positives)
    assert float(found) == pytest.approx(
        float(clip_loss(*tensors(v, u[:7], dtype=torch.float64), 0.07)), rel=1e-9
    )


def test_one_caption_each_is_the_usual_loss():
    v, u = units(4, 7), units(5, 7)
    for found in (
        contrastive(*tensors(v, u), 0.07, rows=3),
        *(
            contrastive(*tensors(v, u), 0.07, pairing=Pairing(owner=torch.arange(7)), positives=p, rows=2)
            for p in ("mean", "apart", "any")
        ),
    ):
        assert float(found) == pytest.approx(float(clip_loss(*tensors(v, u), 0.07)), rel=1e-5)
    owner = np.arange(7)
    found = sigmoid_loss(*tensors(v, u), torch.tensor(10.0), torch.tensor(-10.0))
    assert float(found) == pytest.approx(np_sigmoid(v, u, 10.0, -10.0, owner, None, "mean"), rel=1e-5)


@pytest.mark.parametrize("rows", [64, 100, 300])
def test_blocks_are_equal_to_the_plain_loss_and_its_gradients(rows):
    v, u = units(6, 300, 32), units(7, 300, 32)
    plain, blocks = ([x.requires_grad_() for x in [*tensors(v, u), torch.tensor(0.02)]] for _ in range(2))
    wanted, found = clip_loss(*plain), contrastive(*blocks, rows=rows)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    wanted.backward()
    found.backward()
    for a, b in zip(plain, blocks, strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-5, atol=1e-5 * a.grad.abs().max().item())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_sigmoid_blocks_have_the_gradients_of_the_plain_loss(reduction):
    v, u = units(8, 200, 32), units(9, 200, 32)
    start = [*tensors(v, u), torch.tensor(20.0), torch.tensor(-10.0)]
    plain, blocks = ([x.clone().requires_grad_() for x in start] for _ in range(2))
    z = 2 * torch.eye(200) - 1
    entries = torch.nn.functional.softplus(-z * (plain[0] @ plain[1].T * plain[2] + plain[3]))
    wanted = entries.mean() if reduction == "mean" else entries.sum() / 200
    found = sigmoid_loss(*blocks, reduction=reduction, rows=33)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    wanted.backward()
    found.backward()
    for a, b in zip(plain, blocks, strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-5, atol=1e-5 * a.grad.abs().max().item())


@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize("positives", ["mean", "apart", "any"])
def test_the_contrastive_gradient_agrees_with_finite_differences(words, positives):
    v, u = (x.requires_grad_() for x in tensors(units(10, 5), units(11, 8), dtype=torch.float64))
    tau = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *x: contrastive(*x, pairing=pairing(words), positives=positives, rows=2), (v, u, tau)
    )


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_sigmoid_gradient_agrees_with_finite_differences(reduction):
    v, u = (x.requires_grad_() for x in tensors(units(12, 5), units(13, 8), dtype=torch.float64))
    scale, bias = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (5.0, -2.0))
    assert torch.autograd.gradcheck(
        lambda *x: sigmoid_loss(*x, pairing=pairing(), reduction=reduction, rows=2), (v, u, scale, bias)
    )


def grads(value, *inputs):
    for x in inputs:
        x.grad = None
    value.backward()
    return [x.grad for x in inputs]


@pytest.mark.parametrize("positives", ["mean", "apart", "any"])
def test_truths(positives):
    one, other = (torch.tensor([[1.0, 0.0]], requires_grad=True) for _ in range(2))
    alone = contrastive(one, other, 0.07, pairing=Pairing(owner=torch.zeros(1, dtype=torch.int64)))
    assert alone.item() == pytest.approx(0.0, abs=1e-6)
    assert all(torch.equal(g, torch.zeros(1, 2)) for g in grads(alone, one, other))
    # Four pictures that are one vector: every choice is as good as any other.
    same = torch.full((4, 4), 0.5)
    assert contrastive(same, same, 0.07).item() == pytest.approx(np.log(4), rel=1e-6)
    # All captions say the same: no negative is left, so nothing is to be learnt.
    v, u = (torch.from_numpy(units(s, 4)).float().requires_grad_() for s in (14, 15))
    masked = Pairing(owner=torch.arange(4), words=torch.full((4,), 9))
    nothing = contrastive(v, u, 0.07, pairing=masked, positives=positives)
    assert nothing.item() == pytest.approx(0.0, abs=1e-6)
    assert all(float(g.abs().max()) < 1e-6 for g in grads(nothing, v, u))


def test_truths_of_the_sigmoid():
    one = torch.tensor([[1.0, 0.0]])
    t, b = torch.tensor(10.0), torch.tensor(-10.0)
    # t v·u + b = 0: an even chance.
    assert sigmoid_loss(one, one, t, b).item() == pytest.approx(np.log(2), rel=1e-6)
    same = torch.full((4, 4), 0.5)
    assert sigmoid_loss(same, same, t, b).item() == pytest.approx(np.log(2), rel=1e-6)
    assert sigmoid_loss(same, same, t, b, reduction="sum").item() == pytest.approx(4 * np.log(2), rel=1e-6)
    masked = Pairing(owner=torch.arange(4), words=torch.zeros(4, dtype=torch.int64))
    for reduction in ("mean", "sum"):
        found = sigmoid_loss(same, same, t, b, pairing=masked, reduction=reduction)
        assert found.item() == pytest.approx(np.log(2), rel=1e-6)


def test_a_large_batch_takes_blocks_by_itself(monkeypatch):
    v, u = tensors(units(16, 20), units(17, 20))
    plain = ClipLoss()(v, u).item()
    monkeypatch.setattr("embedstore.losses.clip.PLAIN_LOGITS", 399)
    monkeypatch.setattr("embedstore.losses.clip.clip_loss", None)
    assert ClipLoss()(v, u).item() == pytest.approx(plain, rel=1e-5)


def test_the_sigmoids_parameters_start_and_stay_where_they_should():
    loss = build_loss("sigmoid")
    assert isinstance(loss, SigmoidLoss)
    assert loss.log_scale.item() == pytest.approx(np.log(10))
    assert (loss.bias.item(), loss.tau()) == (-10.0, pytest.approx(0.1))
    sail = build_loss("sigmoid-sum", temperature=0.05, bias=-8.0)
    assert isinstance(sail, SigmoidSumLoss)
    assert (sail.log_scale.item(), sail.bias.item()) == (pytest.approx(np.log(20)), -8.0)
    with torch.no_grad():
        loss.log_scale.fill_(9.0)
    loss(*tensors(units(0, 3), units(1, 3))).backward()
    assert loss.tau() == pytest.approx(0.01)
    assert loss.log_scale.grad is not None
    assert loss.bias.grad is not None


def test_what_a_loss_has_not_is_refused():
    assert sorted(LOSSES.names()) == ["clip", "sigmoid", "sigmoid-sum", "sparc"]
    with pytest.raises(UsageError, match=r"'clip' has no option 'bias'[\s\S]*temperature, positives"):
        build_loss("clip", bias=-10.0)
    with pytest.raises(UsageError, match=r"0\.01 to 1"):
        build_loss("sigmoid", temperature=2.0)
    with pytest.raises(UsageError, match="mean, apart, any"):
        build_loss("clip", positives="all")
