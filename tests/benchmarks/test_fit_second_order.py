"""The bare products of a second-order step are those that the step makes, and no more."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from torch.utils.flop_counter import FlopCounterMode

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench():
    if not BENCHMARKS.is_dir():
        pytest.skip("the benchmarks are not here")
    sys.path.insert(0, str(BENCHMARKS))
    import fit_second_order

    yield fit_second_order
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def small(bench, monkeypatch):
    for name, value in {"PATCHES": 9, "TEXT_TOKENS": 5, "WIDTH": 64, "JOINT": 32, "REDUCED": 6}.items():
        monkeypatch.setattr(bench, name, value)
    return bench


@pytest.mark.parametrize("kind", ["mbdc", "bdc", "mp", "kspd"])
def test_bare_products_are_those_of_a_step(small, kind):
    tokens = small.Tokens.random(8, "cpu")
    with FlopCounterMode(display=False) as counter:
        small.step_of(small.dalip(second=kind, lambda1=0.0, reduced=6), "cpu", lambda: tokens)()
    run, operations = small.bare_products(kind, 8, "cpu")
    with FlopCounterMode(display=False) as bare:
        run()
    assert bare.get_total_flops() == operations
    assert 0.9 <= operations / counter.get_total_flops() <= 1.0
