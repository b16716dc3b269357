"""Basis and product quantiser: what they lose, by formula."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.errors import StorageValueError
from embedstore.store.coding import linear


def sample(seed, count=400, width=12):
    random = np.random.default_rng(seed)
    return (random.normal(size=(count, width)) @ random.normal(size=(width, width)) + 3).astype(np.float32)


@given(seed=st.integers(0, 2**32), kept=st.integers(1, 12))
def test_the_basis_loses_what_is_orthogonal_to_it(seed, kept):
    x = sample(seed)
    mean, basis = linear.learn_basis(x, kept)
    np.testing.assert_allclose(basis @ basis.T, np.eye(kept), atol=1e-5)
    back = linear.from_basis(linear.to_basis(x, mean, basis), mean, basis)
    gap = (x - mean).astype(np.float64)
    wide = basis.astype(np.float64)
    np.testing.assert_allclose(x - back, gap - gap @ wide.T @ wide, atol=1e-4)


def test_the_basis_is_the_best_of_its_width():
    x = sample(1)
    mean, basis = linear.learn_basis(x, 4)
    left = np.linalg.svd((x - x.mean(axis=0)).astype(np.float64), compute_uv=False)[4:]
    lost = np.square(x - linear.from_basis(linear.to_basis(x, mean, basis), mean, basis)).sum()
    assert lost == pytest.approx(np.square(left).sum(), rel=1e-3)


def test_one_sample_gives_one_basis():
    first, again = linear.learn_basis(sample(2), 5), linear.learn_basis(sample(2), 5)
    np.testing.assert_array_equal(first[1], again[1])
    largest = np.abs(first[1]).argmax(axis=1)
    assert (first[1][np.arange(5), largest] > 0).all()


@pytest.fixture(scope="module")
def codebook():
    return linear.learn_codebook(sample(3, count=2000), 4)


def test_the_codebook_has_a_vector_for_every_code(codebook):
    assert codebook.shape == (4, 256, 3)
    assert codebook.dtype == np.float32
    np.testing.assert_array_equal(codebook, linear.learn_codebook(sample(3, count=2000), 4))


@given(seed=st.integers(0, 2**32))
def test_no_code_is_nearer_than_the_one_that_was_taken(codebook, seed):
    x = sample(seed, count=7)
    codes = linear.encode_pq(x, codebook)
    assert codes.shape == (7, 4)
    gaps = x.reshape(7, 4, 1, 3).astype(np.float64) - codebook[None]
    distances = np.square(gaps).sum(axis=-1)
    taken = np.take_along_axis(distances, codes[:, :, None].astype(int), axis=2)[:, :, 0]
    assert (taken <= distances.min(axis=2) + 1e-3).all()
    back = linear.decode_pq(codes, codebook)
    np.testing.assert_allclose(np.square(x - back).sum(axis=1), taken.sum(axis=1), rtol=1e-4, atol=1e-4)


def test_what_lies_in_the_codebook_comes_back(codebook):
    codes = np.random.default_rng(0).integers(256, size=(2, 5, 4)).astype(np.uint8)
    values = linear.decode_pq(codes, codebook)
    assert values.shape == (2, 5, 12)
    np.testing.assert_array_equal(linear.decode_pq(linear.encode_pq(values, codebook), codebook), values)


def test_too_small_a_sample_is_refused():
    with pytest.raises(StorageValueError, match=r"too few tokens.*\n  found: 255\n  allowed: 256 or more"):
        linear.learn_codebook(sample(0, count=255), 4)
