"""Heads fitted in block order are as good as heads fitted on a full shuffle, where the order could matter."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from embedstore.documents import FitConfig
from embedstore.store import open_store
from embedstore.testing.stores import write_random_store

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def mixing():
    if not BENCHMARKS.is_dir():
        pytest.skip("the benchmarks are not here")
    sys.path.insert(0, str(BENCHMARKS))
    import mixing

    yield mixing
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def study(mixing, tmp_path_factory):
    """Three epochs, while the order still tells: blocks of a fifth of a batch, groups of two batches."""
    place = tmp_path_factory.mktemp("mixing")
    write_random_store(place / "store", images=600)
    config = FitConfig(
        image="vision", text="words", split="train", width=16, epochs=3, batch_size=20, lr=3e-3
    )
    return mixing.Study(store=place / "store", out=place / "head", seeds=3, block=4, group=40, config=config)


@pytest.mark.slow
def test_a_head_fitted_on_blocks_is_as_good_and_one_without_any_shuffle_is_not(mixing, study):
    """Rows sorted by kin. Recall@1 is some 30 to 50 %; one picture of the test split is 1.7 points."""
    full = study.recalls("full", kin=False)
    assert min(full) > 20
    assert abs(mixing.difference(study.recalls("blocks", kin=True), full)[0]) < 5
    assert mixing.difference(study.recalls("none", kin=True), full)[0] < -8


def test_an_arranged_epoch_has_every_row_once_in_blocks_of_kin(mixing, study):
    store = open_store(study.store)
    rows = np.arange(3, 600, 2)
    options = {"image": "vision", "text": "words", "rows": rows, "batch_size": 20, "group": 40}
    kin = mixing.by_kin(store, "vision", rows)
    stream = mixing.Arranged(store, block=4, kin=True, **options)
    with stream.epoch(0) as batches:
        seen = [batch.image.rows for batch in batches]
    assert sorted(np.concatenate(seen)) == rows.tolist()
    straight = mixing.Arranged(store, block=4, kin=True, shuffle="none", **options)
    assert straight.plan(0).rows.tolist() == kin.tolist()
    place = np.empty(600, np.int64)
    place[kin] = np.arange(len(kin))
    assert np.mean([len(np.unique(place[b] // 4)) for b in seen]) < 16
    full = mixing.Arranged(store, block=4, kin=True, shuffle="full", **options).plan(0)
    assert np.mean([len(np.unique(place[b] // 4)) for b in np.split(full.rows, full.batches[1:-1])]) > 18


def test_the_difference_is_taken_seed_by_seed(mixing):
    change, noise = mixing.difference([3.0, 5.0, 10.0], [1.0, 3.0, 8.0])
    assert (change, noise) == (2.0, 0.0)
    change, noise = mixing.difference([1.0, 3.0], [0.0, 0.0])
    assert change == 2.0
    assert noise == pytest.approx(1.0)
