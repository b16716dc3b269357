"""Dropout by sample: the same whatever the batch, even, and another one for each layer and place."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embedstore.errors import HeadError
from embedstore.heads.dropout import STEPS, drop_mask, dropout
from embedstore.heads.keyed import by_sample, mixed_
from embedstore.stream.choice import mixed

KEYS = torch.arange(7) * 1_000_003 - 2**62
LENGTHS = torch.tensor([3, 1, 4, 1, 5, 9, 2])


def masks(chosen, *, rate=0.25, width=10):
    """Three layers over some of the samples: their tokens, one row each, four rows each."""
    keys, lengths = KEYS[chosen], LENGTHS[chosen]
    with by_sample(keys, lengths):
        tokens = drop_mask(torch.empty(int(lengths.sum()), width), rate)
        rows = drop_mask(torch.empty(len(chosen), 3, width), rate)
        heads = drop_mask(torch.empty(4 * len(chosen), width), rate)
    return tokens.split(lengths.tolist()), rows, heads.view(len(chosen), 4, width)


@pytest.mark.parametrize("chosen", [[0, 1, 2], [1, 3], [6, 5, 4], [2]])
def test_a_sample_is_dropped_alike_in_any_batch(chosen):
    tokens, rows, heads = masks(list(range(7)))
    few_tokens, few_rows, few_heads = masks(chosen)
    for i, sample in enumerate(chosen):
        assert torch.equal(few_tokens[i], tokens[sample])
        assert torch.equal(few_rows[i], rows[sample])
        assert torch.equal(few_heads[i], heads[sample])


def test_the_words_are_splitmix64():
    values = np.random.default_rng(0).integers(0, 2**64, 100, dtype=np.uint64)
    found = mixed_(torch.from_numpy(values.view(np.int64).copy())).numpy().view(np.uint64)
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        assert found.tolist() == mixed(values - golden).tolist()


def test_the_share_and_the_mean_are_right_and_layers_differ():
    keys, lengths = torch.arange(400), torch.ones(400, dtype=torch.int64)
    with by_sample(keys, lengths):
        first, second = (drop_mask(torch.empty(400, 1001), 0.1) for _ in range(2))
        assert dropout(torch.ones(400, 1001), 0.1).mean().item() == pytest.approx(1.0, abs=3e-3)
    # Five deviations of a mean over 400,400 draws.
    wanted = round(0.1 * STEPS) / STEPS
    assert abs(first.double().mean().item() - wanted) < 5 * (0.09 / first.numel()) ** 0.5
    for low in (0, 1, 2, 3):
        assert first[:, low::4].double().mean().item() == pytest.approx(0.1, abs=0.005)
    assert (first & second).double().mean().item() == pytest.approx(0.01, abs=1e-3)
    assert len(torch.unique(first.int(), dim=0)) == 400


def test_outside_the_generator_of_torch_decides():
    torch.manual_seed(3)
    plain = drop_mask(torch.empty(5, 6), 0.5)
    with by_sample(KEYS[:5], LENGTHS[:5]):
        drop_mask(torch.empty(5, 6), 0.5)
    torch.manual_seed(3)
    assert torch.equal(drop_mask(torch.empty(5, 6), 0.5), plain)


def test_rows_of_nobody_are_refused():
    with by_sample(KEYS, LENGTHS), pytest.raises(HeadError, match="26 rows of 7 samples"):
        drop_mask(torch.empty(26, 4), 0.5)
