"""What a benchmark asks of another library's loader before it times it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ROWS, SHAPE = 40, (40, 3, 4)


@pytest.fixture(scope="module")
def modules():
    if not BENCHMARKS.is_dir():
        pytest.skip("the benchmarks are not here")
    sys.path.insert(0, str(BENCHMARKS))
    import peers
    import store_peers

    yield peers, store_peers
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def base():
    return np.random.default_rng(0).random(SHAPE).astype(np.float16)


def epochs_of(base, orders, values=None):
    """A loader with these orders, one after the other."""
    values = base if values is None else values
    left = iter(orders)

    class Loader:
        def __iter__(self):
            order = next(left)
            for part in np.array_split(np.asarray(order), 3):
                yield part, values[part % len(values)]

    return Loader()


def test_a_right_loader_passes(modules, base):
    random = np.random.default_rng(1)
    modules[1].check_epochs(epochs_of(base, [random.permutation(ROWS) for _ in range(2)]), ROWS, base)


@pytest.mark.parametrize("fault", ["repeats", "misses", "in order", "same twice", "wrong values"])
def test_a_wrong_loader_is_found(modules, base, fault):
    random = np.random.default_rng(1)
    one, two = random.permutation(ROWS), random.permutation(ROWS)
    orders = {
        "repeats": [np.append(one, 3), two],
        "misses": [one, two[1:]],
        "in order": [np.arange(ROWS), two],
        "same twice": [one, one],
    }.get(fault, [one, two])
    values = base + np.float16(1) if fault == "wrong values" else None
    with pytest.raises((AssertionError, SystemExit)):
        modules[1].check_epochs(epochs_of(base, orders, values), ROWS, base)


@pytest.mark.parametrize("name", ["hf", "hf_arrow", "litdata_stream", "webdataset_tar", "mds"])
@pytest.mark.filterwarnings("ignore")
def test_an_installed_loader_gives_every_row_anew(modules, base, name, tmp_path):
    """Without workers; those that are not installed are left out, as in the benchmark."""
    peers, store_peers = modules
    found, missing = peers.installed()
    assert {p.NAME for p in found} | set(missing) == set(peers.MODULES)
    peer = next((p for p in found if p.__name__ == f"peers.{name}"), None)
    if peer is None:
        pytest.skip("not installed")
    writer = sys.modules["peers.hf"] if name == "hf_arrow" else peer
    writer.write(tmp_path, np.array_split(base, 2), SHAPE)
    store_peers.check_epochs(peer.loader(tmp_path, 0, 16), ROWS, base)
