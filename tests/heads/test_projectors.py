"""Every projector against its float64 NumPy twin, mean first against token by token, gradients included."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from embedstore.errors import HeadError
from embedstore.heads import dropout as dropout_module
from embedstore.heads.dropout import drop_mask
from embedstore.heads.mean_gelu import mean_gelu
from embedstore.heads.projectors import projector
from embedstore.heads.segments import Grid, Runs, pack

KINDS = ("token", "mlp", "linear")
erf = np.vectorize(math.erf)


def np_gelu(x):
    return x * 0.5 * (1 + erf(x / math.sqrt(2)))


def np_norm(x, eps=1e-5):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)


def weights(module):
    return {k: v.detach().numpy().astype(np.float64) for k, v in module.state_dict().items()}


def np_project(kind, w, x):
    if kind == "linear":
        return x @ w["linear.weight"].T + w["linear.bias"]
    if kind == "token":
        x = np_norm(x) * w["norm.weight"] + w["norm.bias"]
        hidden = np_gelu(x @ w["hidden.weight"].T + w["hidden.bias"])
        out = hidden @ w["out.weight"].T + w["out.bias"]
        return x @ w["linear.weight"].T + w["linear.bias"] + out
    h = x @ w["first.weight"].T + w["first.bias"]
    y = np_norm(h + np_gelu(h) @ w["second.weight"].T + w["second.bias"])
    return y * w["norm.weight"] + w["norm.bias"]


def made(kind, d=7, e=5, *, rate=0.0, dtype=torch.float32, seed=0):
    """A projector whose norms, too, are away from their first values."""
    torch.manual_seed(seed)
    module = projector(kind, d, e, dropout=rate)
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return module.to(dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_a_projector_is_its_formula(kind):
    module = made(kind)
    x = torch.randn(4, 3, 7)
    np.testing.assert_allclose(
        module(x).detach().numpy(), np_project(kind, weights(module), x.double().numpy()), atol=1e-5
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_over_a_grid_is_the_mean_of_the_formula(kind):
    module = made(kind)
    x = torch.randn(4, 3, 7)
    wanted = np_project(kind, weights(module), x.double().numpy()).mean(1)
    np.testing.assert_allclose(
        module.mean(x.flatten(0, 1), Grid(4, 3)).detach().numpy(), wanted, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("kind", [*KINDS, "identity"])
@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_the_mean_over_packed_tokens_sees_only_the_tokens_of_its_own_text(kind, lengths, seed):
    module = made(kind, seed=seed)
    x = torch.randn(sum(lengths), 7)
    runs = Runs.from_offsets(torch.tensor([0, *np.cumsum(lengths)]))
    parts = x.double().numpy()
    parts = parts if kind == "identity" else np_project(kind, weights(module), parts)
    wanted = [part.mean(0) for part in np.split(parts, np.cumsum(lengths)[:-1])]
    np.testing.assert_allclose(module.mean(x, runs).detach().numpy(), wanted, rtol=1e-4, atol=1e-5)


def mean_first_and_token_by_token(module, x, segments, upstream):
    results = []
    for path in (module.mean, lambda x, s: s.mean(module(x))):
        module.zero_grad()
        torch.manual_seed(5)
        y = path(x, segments)
        y.backward(upstream)
        results.append((y.detach(), {n: p.grad.clone() for n, p in module.named_parameters()}))
    return results


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("segments", [Grid(4, 6), Runs.from_offsets(torch.tensor([0, 1, 9, 14, 24]))])
def test_mean_first_is_exact_with_all_gradients(rate, segments):
    module = made("token", rate=rate, dtype=torch.float64).train()
    x = torch.randn(24, 7, dtype=torch.float64)
    first, naive = mean_first_and_token_by_token(module, x, segments, torch.randn(4, 5, dtype=torch.float64))
    torch.testing.assert_close(first[0], naive[0], rtol=1e-10, atol=1e-10)
    assert set(first[1]) == {
        "norm.weight", "norm.bias", "linear.weight", "linear.bias",
        "hidden.weight", "hidden.bias", "out.weight", "out.bias",
    }  # fmt: skip
    for name, grad in naive[1].items():
        torch.testing.assert_close(first[1][name], grad, rtol=1e-9, atol=1e-9, msg=name)


def test_a_plain_layernorm_gives_the_same_gradients_as_the_folded_one():
    module = made("token", dtype=torch.float64)
    x, upstream = torch.randn(12, 7, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    normed = functional.layer_norm(x, (7,), module.norm.weight, module.norm.bias)
    y = module.linear(normed) + module.out(functional.gelu(module.hidden(normed)))
    wanted = torch.autograd.grad(y.view(4, 3, 5).mean(1), list(module.parameters()), upstream)
    found = torch.autograd.grad(module.mean(x, Grid(4, 3)), list(module.parameters()), upstream)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_frozen_tokens_keep_their_values_and_dtype():
    module = made("token", rate=0.5).train()
    x = torch.randn(6, 7)
    before = x.clone()
    module.mean(x, Grid(2, 3)).sum().backward()
    assert torch.equal(x, before)
    half = torch.randn(6, 7).half()
    module.eval()
    torch.testing.assert_close(module.mean(half, Grid(2, 3)), module.mean(half.float(), Grid(2, 3)))


def test_mean_gelu_agrees_with_finite_differences():
    torch.manual_seed(0)
    x, w, b = (torch.randn(*s, dtype=torch.float64) for s in ((10, 4), (3, 4), (3,)))
    w.requires_grad_()
    b.requires_grad_()
    segments, upstream = Runs.from_offsets(torch.tensor([0, 3, 4, 10])), torch.randn(3, 3).double()
    grads = torch.autograd.grad(mean_gelu(x, w, b, segments), (w, b), upstream)
    for tensor, grad in zip((w, b), grads, strict=True):
        flat, numeric = tensor.detach().view(-1), torch.empty_like(grad).view(-1)
        for i in range(len(flat)):
            sides = []
            for step in (1e-6, -1e-6):
                flat[i] += step
                sides.append((mean_gelu(x, w.detach(), b.detach(), segments) * upstream).sum())
                flat[i] -= step
            numeric[i] = (sides[0] - sides[1]) / 2e-6
        torch.testing.assert_close(grad.view(-1), numeric, rtol=1e-6, atol=1e-7)


def test_two_graphs_at_once_do_not_share_a_buffer():
    module = made("token")
    x = [torch.randn(6, 7) for _ in range(2)]
    alone = [torch.autograd.grad(module.mean(t, Grid(2, 3)).sum(), module.hidden.weight)[0] for t in x]
    both = [module.mean(t, Grid(2, 3)).sum() for t in x]
    together = [torch.autograd.grad(y, module.hidden.weight)[0] for y in both]
    for a, b in zip(alone, together, strict=True):
        assert torch.equal(a, b)


def test_a_second_backward_pass_is_refused():
    y = made("token").mean(torch.randn(6, 7), Grid(2, 3)).sum()
    y.backward(retain_graph=True)
    with pytest.raises(HeadError, match="second backward"):
        y.backward()


def test_one_token_is_its_own_mean():
    module = made("token")
    x = torch.randn(4, 7)
    torch.testing.assert_close(module.mean(x, Grid(4, 1)), module(x))


def test_a_padded_batch_packs_to_its_real_tokens():
    tokens = torch.arange(12.0).view(2, 3, 2)
    packed, runs = pack(tokens, torch.tensor([[True, False, False], [True, True, True]]))
    assert packed[:, 0].tolist() == [0, 6, 8, 10]
    assert runs.lengths.tolist() == [1, 3]
    assert runs.max(packed).tolist() == [[0, 1], [10, 11]]


@pytest.mark.parametrize("offsets", [[0, 2, 2], [1, 2], [0], [0, 3, 1]])
def test_bad_offsets_are_refused(offsets):
    with pytest.raises(HeadError, match="at least one token"):
        Runs.from_offsets(torch.tensor(offsets))


def test_dropout_keeps_its_share_and_its_mean():
    torch.manual_seed(0)
    ones = torch.ones(1000, 200)
    dropped = dropout_module.dropout(ones, 0.1)
    # 200,000 draws: the standard deviation of the share is 0.00067.
    assert abs(float((dropped == 0).double().mean()) - 0.1) < 0.004
    assert float(dropped.max()) == pytest.approx(1 / 0.9, rel=1e-4)
    assert abs(float(dropped.mean()) - 1) < 0.004


def test_every_lane_of_the_random_words_is_used_alike():
    torch.manual_seed(1)
    lanes = drop_mask(torch.empty(50_000, 4), 0.25).double().mean(0)
    assert torch.allclose(lanes, torch.tensor(0.25).double(), atol=0.01)


def test_no_dropout_when_testing_and_none_at_rate_zero():
    module = made("token", rate=0.9).eval()
    x = torch.randn(6, 7)
    assert torch.equal(module.mean(x, Grid(2, 3)), module.mean(x, Grid(2, 3)))
    assert dropout_module.drop_(x, 0.0) == 1.0


def test_dropping_everything_is_refused():
    with pytest.raises(HeadError, match="dropout"):
        dropout_module.dropout(torch.ones(3), 1.0)
