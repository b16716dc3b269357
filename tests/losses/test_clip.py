"""The contrastive loss against its float64 NumPy twin, its gradient, and τ."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embedstore.errors import UsageError
from embedstore.losses import LOSSES
from embedstore.losses.clip import ClipLoss, clip_loss


def units(seed, b=6, e=5):
    x = np.random.default_rng(seed).normal(size=(b, e))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def np_clip_loss(v, u, tau):
    total = 0.0
    for a, b in ((v, u), (u, v)):
        for i in range(len(a)):
            logits = np.array([a[i] @ b[j] / tau for j in range(len(b))])
            total -= logits[i] - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    return total / (2 * len(v))


@pytest.mark.parametrize("tau", [0.001, 0.07, 0.5])
def test_the_loss_is_its_formula(tau):
    v, u = units(0), units(1)
    found = clip_loss(torch.from_numpy(v).float(), torch.from_numpy(u).float(), tau)
    assert float(found) == pytest.approx(np_clip_loss(v, u, tau), rel=1e-5)


def test_a_perfect_alignment_costs_nothing_and_equal_rows_cost_log_b():
    eye = torch.eye(4)
    assert float(clip_loss(eye, eye, 0.01)) == pytest.approx(0.0, abs=1e-6)
    same = torch.ones(4, 4) / 2
    assert float(clip_loss(same, same, 0.07)) == pytest.approx(np.log(4), rel=1e-6)


def test_the_gradient_agrees_with_finite_differences():
    v, u = (torch.from_numpy(units(s)).requires_grad_() for s in (2, 3))
    tau = torch.tensor(0.07, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(clip_loss, (v, u, tau))


def test_temperature_starts_where_told_and_stays_in_its_range():
    loss = ClipLoss()
    assert loss.temperature.item() == pytest.approx(0.07)
    for wild, kept in ((-3.0, 0.001), (9.0, 0.5)):
        loss.temperature.data.fill_(wild)
        value = loss(torch.eye(3), torch.eye(3))
        assert loss.temperature.item() == pytest.approx(kept)
        assert value.item() == pytest.approx(clip_loss(torch.eye(3), torch.eye(3), kept).item(), rel=1e-5)


def test_temperature_is_learnt():
    loss = ClipLoss(temperature=0.1)
    v, u = (torch.from_numpy(units(s)).float() for s in (4, 5))
    loss(v, u).backward()
    assert loss.temperature.grad is not None
    assert loss.temperature.grad.item() != 0


def test_a_temperature_outside_the_range_is_refused():
    with pytest.raises(UsageError, match=r"0\.001 to 0\.5"):
        ClipLoss(temperature=0.9)


def test_the_loss_is_found_by_name():
    assert LOSSES.load("clip") is ClipLoss
