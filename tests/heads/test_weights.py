"""Means over tokens that stand for unequal shares of a picture."""

from __future__ import annotations

import pytest
import torch

from embedstore.heads.projectors import projector
from embedstore.heads.segments import Grid
from embedstore.heads.token import TokenHead
from embedstore.testing.heads import head_config


def parts(seed=0, b=3, t=5, d=16):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(b, t, d, generator=generator)
    weights = torch.rand(b, t, generator=generator)
    weights[0, 2] = 0.0
    return tokens, weights / weights.sum(1, keepdim=True)


@pytest.mark.parametrize("kind", ["token", "mlp", "linear", "identity"])
def test_the_mean_first_is_the_weighted_mean_of_each_token(kind):
    tokens, weights = parts()
    torch.manual_seed(0)
    module = projector(kind, 16, 16, dropout=0.0).double()
    wanted = torch.einsum("bt,bte->be", weights.double(), module(tokens.double()))
    found = module.mean(tokens.flatten(0, 1).double(), Grid(3, 5, weights.double()))
    torch.testing.assert_close(found, wanted)
    if kind != "identity":
        grads = [torch.autograd.grad(y.square().sum(), list(module.parameters())) for y in (found, wanted)]
        for ours, theirs in zip(*grads, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_equal_weights_are_no_weights():
    tokens, _ = parts()
    torch.manual_seed(0)
    head = TokenHead(head_config()).eval()
    prefix = tokens[:, :1]
    even = torch.full((3, 5), 0.2)
    torch.testing.assert_close(
        head.embed_image(tokens, prefix, weights=even), head.embed_image(tokens, prefix)
    )


def test_a_token_taken_twice_weighs_as_two():
    tokens, _ = parts()
    head = TokenHead(head_config()).eval()
    doubled = torch.cat([tokens, tokens[:, :1]], dim=1)
    weights = torch.full((3, 5), 1 / 6)
    weights[:, 0] = 2 / 6
    torch.testing.assert_close(
        head.embed_image(tokens, tokens[:, :1], weights=weights), head.embed_image(doubled, tokens[:, :1])
    )


def test_a_centroid_without_weight_counts_for_nothing():
    tokens, weights = parts()
    changed = tokens.clone()
    changed[0, 2] = 100.0
    head = TokenHead(head_config()).eval()
    ours = head.embed_image(tokens, tokens[:, :1], weights=weights)
    torch.testing.assert_close(head.embed_image(changed, tokens[:, :1], weights=weights), ours)


def test_the_gradient_of_a_weighted_mean():
    _, weights = parts()
    grid, g = Grid(3, 5, weights), torch.randn(3, 4)
    x = torch.randn(15, 4, requires_grad=True)
    (wanted,) = torch.autograd.grad(grid.mean(x), x, g)
    torch.testing.assert_close(grid.spread_mean(g).reshape(15, 4), wanted)
