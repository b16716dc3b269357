from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

from embedstore.errors import UsageError
from embedstore.metrics.intervals import sums_intervals
from embedstore.metrics.iou import Overlap, chance_iou, chance_share_iou, pixel_confusion

# Classes 0, 1, 2 and 3, of which 3 is nowhere; -1 is of no class.
TRUTH = np.array([[0, 0, 0, 1], [1, 1, -1, -1]])
CALLED = np.array([[0, 0, 1, 1], [1, 2, 0, 2]])
ALL = np.ones(4, bool)


def test_truth_table_with_unlabelled_pixels_a_wrong_class_and_one_that_is_absent() -> None:
    table = pixel_confusion(CALLED, TRUTH, 4)
    assert table.tolist() == [[2, 1, 0, 0], [0, 2, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    found = Overlap.of(table)
    assert (found.shared.tolist(), found.predicted.tolist(), found.true.tolist()) == (
        [2, 2, 0, 0],
        [2, 3, 1, 0],
        [3, 3, 0, 0],
    )
    assert found.iou[:3].tolist() == [2 / 3, 2 / 4, 0.0]
    assert np.isnan(found.iou[3])
    # Class 2 is called once and never true: it counts as 0. Class 3 is nowhere: it does not count.
    assert found.mean_iou(ALL) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert found.mean_iou(found.true > 0) == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found.accuracy == pytest.approx(4 / 6)


def test_one_class_is_always_right_and_nothing_has_no_mean() -> None:
    one = Overlap.of(pixel_confusion(np.zeros(5, int), np.zeros(5, int), 1))
    assert (one.iou.tolist(), float(one.accuracy)) == ([1.0], 1.0)
    none = Overlap.of(pixel_confusion(np.zeros(5, int), np.full(5, -1), 2))
    assert np.isnan(none.mean_iou(np.ones(2, bool)))
    assert np.isnan(none.accuracy)


def test_the_iou_of_a_data_set_is_that_of_one_large_picture() -> None:
    small = Overlap.of(pixel_confusion(np.array([0, 0]), np.array([0, 1]), 2))
    large = Overlap.of(pixel_confusion(np.array([1] * 8), np.array([1] * 8), 2))
    both = Overlap.stack([small, large])
    assert both.iou[0].tolist() == [0.5, 0.0]
    assert both.sum().iou.tolist() == [0.5, 8 / 9]
    assert both.mean_iou(np.ones(2, bool)).tolist() == [0.25, 1.0]


@settings(max_examples=40)
@given(st.integers(2, 6), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_equal_to_scikit_learn(classes: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, called = rng.integers(0, classes, n), rng.integers(0, classes, n)
    table = pixel_confusion(called, truth, classes)
    labels = np.arange(classes)
    assert table.tolist() == confusion_matrix(truth, called, labels=labels).tolist()
    found = Overlap.of(table)
    there = np.union1d(truth, called)
    wanted = jaccard_score(truth, called, labels=there, average=None)
    np.testing.assert_allclose(found.iou[there], wanted, rtol=1e-12)
    assert np.isnan(np.delete(found.iou, there)).all()
    present = np.unique(truth)
    assert found.mean_iou(found.true > 0) == pytest.approx(
        jaccard_score(truth, called, labels=present, average="macro")
    )
    assert found.accuracy == pytest.approx(accuracy_score(truth, called))


def test_chance_is_what_random_classes_come_to() -> None:
    rng = np.random.default_rng(0)
    truth = rng.choice(3, size=300_000, p=[0.6, 0.3, 0.1])
    true = np.bincount(truth)
    found = Overlap.of(pixel_confusion(rng.integers(0, 3, truth.size), truth, 3))
    np.testing.assert_allclose(chance_iou(true, 3), found.iou, atol=0.005)
    called = rng.random(truth.size) < 0.6
    for c in range(3):
        iou = (called & (truth == c)).sum() / (called | (truth == c)).sum()
        assert chance_share_iou(true[c], truth.size, 0.6) == pytest.approx(iou, abs=0.005)


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(UsageError, match="different sizes"):
        pixel_confusion(np.zeros((2, 2), int), np.zeros(4, int), 2)
    with pytest.raises(UsageError, match=r"class of the truth[\s\S]*0 to 2[\s\S]*0 to 1"):
        pixel_confusion(np.array([0, 1]), np.array([0, 2]), 2)
    with pytest.raises(UsageError, match="class of the prediction"):
        pixel_confusion(np.array([0, -1]), np.array([0, 1]), 2)


def test_intervals_of_sums_are_those_of_resampled_rows() -> None:
    rng = np.random.default_rng(1)
    parts = np.stack([rng.integers(0, 5, 200), rng.integers(5, 9, 200), np.zeros(200)], axis=1)

    def ratios(sums):
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.stack([sums[:, 0] / sums[:, 1], sums[:, 0] / sums[:, 2]], axis=1)

    found = sums_intervals(parts, ratios, seed=0)
    assert found.shape == (2, 2)
    assert np.isnan(found[1]).all()
    value = parts[:, 0].sum() / parts[:, 1].sum()
    # The width of a ratio's interval by the delta method.
    spread = np.std(parts[:, 0] - value * parts[:, 1]) / parts[:, 1].mean() / np.sqrt(200)
    np.testing.assert_allclose(found[0], [value - 1.96 * spread, value + 1.96 * spread], atol=0.2 * spread)
    assert np.array_equal(found, sums_intervals(parts, ratios, seed=0), equal_nan=True)
    with pytest.raises(UsageError, match="at least one"):
        sums_intervals(parts[:0], ratios, seed=0)
