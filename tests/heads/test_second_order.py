"""Second-order matrices against float64 NumPy twins, their gradients, and the cases that break naive ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from embedstore.heads.anchored import cosine_and_map
from embedstore.heads.second_order import (
    bdc_matrix,
    kspd_matrix,
    moment_matrices,
    squared_distances,
    symmetric_log,
    upper_triangle,
)
from embedstore.heads.token_sets import TokenSets


def np_bdc(x, m):
    r = x.shape[1]
    a = np.array(
        [[np.sqrt(((x[:, i] - x[:, j]) ** 2).sum() / (2 * m) + 1e-5) for j in range(r)] for i in range(r)]
    )
    return a - a.mean(0, keepdims=True) - a.mean(1, keepdims=True) + a.mean()


def np_kspd(x, m):
    r = x.shape[1]
    d = np.array([[((x[:, i] - x[:, j]) ** 2).sum() for j in range(r)] for i in range(r)])
    values, vectors = np.linalg.eigh(np.exp(-d / (2 * d.mean())) + 1e-3 * np.eye(r))
    return vectors @ np.diag(np.log(values)) @ vectors.T


def tokens(b=3, h=2, m=7, r=5, seed=0, dtype=torch.float32):
    return torch.randn(b, h, m, r, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(("ours", "theirs"), [(bdc_matrix, np_bdc), (kspd_matrix, np_kspd)])
def test_matrices_are_their_formula(ours, theirs):
    x, count = tokens(), torch.tensor([7.0, 7.0, 7.0])
    found = (ours(x, count) if ours is bdc_matrix else ours(x)).numpy()
    wanted = [[theirs(x[i, k].double().numpy(), 7) for k in range(2)] for i in range(3)]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=2e-5)


def test_moments_are_cross_covariances_of_neighbouring_heads():
    x = tokens(h=3)
    found = moment_matrices(x, torch.full((3,), 7.0)).numpy()
    assert found.shape == (3, 2, 5, 5)
    d = x.double().numpy()
    wanted = [[d[i, k].T @ d[i, k + 1] / 7 for k in range(2)] for i in range(3)]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@settings(max_examples=25)
@given(length=st.integers(1, 6), more=st.integers(0, 5), seed=st.integers(0, 99))
def test_empty_places_change_nothing(length, more, seed):
    x, count = tokens(b=1, m=length, seed=seed), torch.tensor([float(length)])
    longer = torch.cat([x, torch.zeros(1, 2, more, 5)], dim=2)
    for matrix in (bdc_matrix, moment_matrices):
        torch.testing.assert_close(matrix(longer, count), matrix(x, count))
    torch.testing.assert_close(kspd_matrix(longer), kspd_matrix(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("matrix", [bdc_matrix, moment_matrices])
def test_gradients_agree_with_finite_differences(matrix):
    x = tokens(b=2, m=4, r=3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: matrix(x, torch.tensor([4.0, 4.0])), (x,))


def test_the_spread_of_kspd_has_no_gradient():
    x = tokens(b=1, h=1, dtype=torch.float64).requires_grad_()
    spread = squared_distances(x).detach().mean()

    def with_fixed_spread(x):
        kernel = (squared_distances(x) / (-2 * spread)).exp()
        return symmetric_log(kernel + 1e-3 * torch.eye(5, dtype=torch.float64))

    assert torch.autograd.gradcheck(with_fixed_spread, (x,))
    wanted = torch.autograd.grad(with_fixed_spread(x)[..., 0, 1].sum(), x)
    found = torch.autograd.grad(kspd_matrix(x)[..., 0, 1].sum(), x)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "x",
    [torch.zeros(1, 1, 4, 5), torch.ones(1, 1, 4, 5), tokens(1, 1, 4, 1).expand(1, 1, 4, 5),
     tokens(1, 1, 1, 5), 1e-8 * tokens(1, 1, 3, 5), 1e4 * tokens(1, 1, 3, 5)],
    ids=["zeros", "ones", "identical-channels", "one-token", "tiny", "huge"],
)  # fmt: skip
def test_values_and_gradients_are_finite(x, dtype):
    for matrix in (bdc_matrix, lambda x, _: kspd_matrix(x)):
        leaf = x.to(dtype).clone().requires_grad_()
        found = matrix(leaf, torch.tensor([float(x.shape[2])]))
        (grad,) = torch.autograd.grad((found * torch.arange(25.0, dtype=dtype).view(5, 5)).sum(), leaf)
        assert torch.isfinite(found).all()
        assert torch.isfinite(grad).all()


def test_the_logarithm_differentiates_repeated_and_close_eigenvalues():
    q, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    for values in ([2.0, 2.0, 2.0, 2.0], [1.0, 1.0 + 1e-9, 3.0, 3.0001], [0.1, 0.2, 5.0, 40.0]):
        a = (q * torch.tensor(values, dtype=torch.float64)) @ q.T

        def log_of(a):
            return symmetric_log((a + a.T) / 2)

        assert torch.autograd.gradcheck(log_of, (a.requires_grad_(),))
        torch.testing.assert_close(torch.linalg.matrix_exp(log_of(a)), (a + a.T) / 2)


def test_mixed_precision_leaves_the_matrices_in_float32():
    x, count = tokens(), torch.full((3,), 7.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for matrix in (bdc_matrix, moment_matrices, lambda x, _: kspd_matrix(x)):
            found = matrix(x, count)
            assert found.dtype == torch.float32
    torch.testing.assert_close(found, kspd_matrix(x))


def test_the_upper_triangle_goes_row_by_row():
    assert upper_triangle(torch.arange(9).view(3, 3)).tolist() == [0, 1, 2, 4, 5, 8]
    assert upper_triangle(torch.zeros(2, 4, 46, 46)).shape == (2, 4, 1081)


@pytest.mark.parametrize("packed", [False, True], ids=["grid", "packed"])
def test_the_cosine_to_an_anchor_is_torchs_and_has_its_gradient(packed):
    g = torch.Generator().manual_seed(0)
    offsets = torch.tensor([0, 2, 3, 6])
    y, anchor, weight = (
        torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_()
        for shape in ([6, 2, 4] if packed else [3, 2, 2, 4], [3, 2, 4], [5, 4])
    )
    sets = TokenSets.packed(offsets, y.device) if packed else TokenSets.grid(y.flatten(-2), None, None)
    spread = anchor[torch.tensor([0, 0, 1, 2, 2, 2])] if packed else anchor.unsqueeze(1)
    wanted = functional.cosine_similarity(y, spread, dim=-1), y @ weight.T
    torch.testing.assert_close(cosine_and_map(y, anchor, weight, sets), wanted)
    assert torch.autograd.gradcheck(lambda *given: cosine_and_map(*given, sets), (y, anchor, weight))


def test_a_token_of_zeros_has_a_finite_cosine():
    y, anchor = torch.zeros(1, 2, 1, 3, requires_grad=True), torch.zeros(1, 1, 3, requires_grad=True)
    sets = TokenSets.grid(y.flatten(-2), None, None)
    cosine, _ = cosine_and_map(y, anchor, torch.ones(2, 3), sets)
    cosine.sum().backward()
    assert not cosine.any()
    assert torch.isfinite(y.grad).all()
    assert torch.isfinite(anchor.grad).all()
