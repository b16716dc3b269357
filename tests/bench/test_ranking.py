from __future__ import annotations

import numpy as np
import pytest

from embedstore.bench.ranking import ranking


def axes(*rows: int) -> np.ndarray:
    return np.eye(4, dtype=np.float32)[list(rows)]


@pytest.mark.parametrize("index", ["exact", "ivf", "hnsw"])
def test_a_small_gallery_by_hand(index) -> None:
    # Text 2 is of image 1 but looks like image 0; texts 3 and 4 of image 2 meet nothing, so all rows tie.
    images, texts = axes(0, 1, 2), axes(0, 1, 0, 3, 3)
    found = ranking(images, texts, np.array([0, 1, 1, 2, 2]), index=index)
    assert found.text_to_image.tolist() == [1, 1, 2, 3, 3]
    # Image 2 meets only zeros: rows 0, 1 and 2 stand before its first own text, row 3.
    assert found.image_to_text.tolist() == [1, 1, 4]
    expected = {} if index == "exact" else {"text_to_image": [1.0] * 5, "image_to_text": [1.0] * 3}
    assert {way: shares.tolist() for way, shares in found.index_recalls.items()} == expected


def test_what_an_index_does_not_find_among_ten_stands_behind_the_gallery() -> None:
    images, texts = np.ones((30, 2), np.float32) / 2**0.5, np.ones((30, 2), np.float32) / 2**0.5
    found = ranking(images, texts, np.arange(30), index="hnsw")
    # All scores are equal, so whatever ten an index gives is right, and the rank is the place among them.
    assert {*found.text_to_image.tolist()} <= {*range(1, 11), 31}
    assert (found.text_to_image == 31).sum() >= 20
    assert found.index_recalls["text_to_image"].tolist() == [1.0] * 30
    exact = ranking(images, texts, np.arange(30))
    assert exact.text_to_image.tolist() == exact.image_to_text.tolist() == list(range(1, 31))


def test_one_image_with_one_text_is_found() -> None:
    found = ranking(axes(0), axes(3), np.array([0]))
    assert (found.text_to_image.tolist(), found.image_to_text.tolist()) == ([1], [1])
