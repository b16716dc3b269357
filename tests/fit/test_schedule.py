"""The learning rate against a table worked out by hand, and which parameters decay."""

from __future__ import annotations

import pytest
import torch

from embedstore.fit.schedule import learning_rate, parameter_groups
from embedstore.heads.token import TokenHead
from embedstore.losses.clip import ClipLoss
from embedstore.testing.heads import head_config


def rates(steps, warmup, peak=1.0, floor=0.0):
    return [learning_rate(s, steps=steps, warmup=warmup, peak=peak, floor=floor) for s in range(steps)]


def test_warm_up_is_linear_and_the_cosine_ends_at_the_floor():
    half = 2**0.5 / 2
    wanted = [0.25, 0.5, 0.75, 1.0, (1 + half) / 2, 0.5, (1 - half) / 2, 0.0]
    assert rates(8, 4) == pytest.approx(wanted)
    assert rates(8, 4, peak=2.0, floor=1.0)[-1] == pytest.approx(1.0)


def test_without_warm_up_and_with_nothing_else():
    assert rates(2, 0) == pytest.approx([0.5, 0.0])
    assert rates(3, 3) == pytest.approx([1 / 3, 2 / 3, 1.0])


def test_only_matrices_decay():
    head, loss = TokenHead(head_config()), ClipLoss()
    decayed, others = parameter_groups([head, loss], 0.02)
    assert decayed["weight_decay"] == 0.02
    assert others["weight_decay"] == 0.0
    assert all(p.ndim == 2 for p in decayed["params"])
    assert any(p is loss.temperature for p in others["params"])
    names = {n for n, p in head.named_parameters() if any(p is q for q in others["params"])}
    assert names == {n for n, _ in head.named_parameters() if n.endswith("bias") or ".norm." in n}
    count = sum(p.numel() for group in (decayed, others) for p in group["params"])
    assert count == sum(p.numel() for p in head.parameters()) + 1


def test_decay_shrinks_a_matrix_and_leaves_the_temperature():
    head, loss = TokenHead(head_config()), ClipLoss()
    optimiser = torch.optim.AdamW(parameter_groups([head, loss], 0.5), lr=0.1)
    for p in [*head.parameters(), *loss.parameters()]:
        p.grad = torch.zeros_like(p)
    before = head.text_global.first.weight.detach().clone()
    optimiser.step()
    torch.testing.assert_close(head.text_global.first.weight.detach(), before * 0.95)
    assert loss.temperature.item() == pytest.approx(0.07)
