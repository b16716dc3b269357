from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from embedstore.bench.rows import NO_CAPTION, NO_PICTURE, NO_TEXT, select_images, select_pairs
from embedstore.errors import UsageError

IMAGES = [("test", "a"), ("train", "a"), ("test", "b"), ("test", None), (None, "c")]
TEXTS = [
    (0, "en", "caption"),
    (None, "en", "caption"),
    (2, "en", "caption"),
    (0, "de", "caption"),
    (2, "en", "negative"),
    (0, "en", "caption"),
    (3, "de", "caption"),
    (1, "en", "caption"),
    (2, "en", "caption"),
]


class Tables:
    """A store of tables only."""

    def __init__(self) -> None:
        self.plan = SimpleNamespace(
            images=len(IMAGES),
            splits={"train": 1, "test": 3},
            languages={"en": 7, "de": 2},
            roles={"caption": 8, "negative": 1},
        )

    def images(self, columns):
        return pa.table({"split": [s for s, _ in IMAGES], "label": [x for _, x in IMAGES]}).select(columns)

    def texts(self, columns):
        image, language, role = (list(column) for column in zip(*TEXTS, strict=True))
        return pa.table({"image": pa.array(image, pa.int64()), "language": language, "role": role}).select(
            columns
        )


def feature(rows: int, bad: tuple[int, ...] = (), empty: tuple[int, ...] = ()):
    status, lengths = np.zeros(rows, np.uint8), np.full(rows, 4, np.int32)
    status[list(bad)], lengths[list(empty)] = 1, 0
    return SimpleNamespace(arrays=("tokens", "lengths"), status=lambda: status, lengths=lambda: lengths)


def pairs(**options):
    given = {"image": feature(len(IMAGES)), "text": feature(len(TEXTS)), "split": "test", "language": "en"}
    return select_pairs(Tables(), role="caption", **(given | options))


def test_captions_of_one_image_stand_together_in_the_order_of_the_images() -> None:
    found = pairs()
    assert found.images.tolist() == [0, 2]
    assert found.texts.tolist() == [0, 5, 2, 8]
    assert (found.counts.tolist(), found.offsets.tolist()) == ([2, 2], [0, 2, 4])
    assert found.image_of.tolist() == [0, 0, 1, 1]
    assert found.skipped == {NO_PICTURE: 0, NO_TEXT: 0, NO_CAPTION: 1}


def test_rows_that_could_not_be_read_are_left_out_and_counted() -> None:
    found = pairs(image=feature(5, bad=(2,)), text=feature(9, bad=(5,)))
    assert (found.images.tolist(), found.texts.tolist()) == ([0], [0])
    assert found.skipped == {NO_PICTURE: 1, NO_TEXT: 1, NO_CAPTION: 1}
    assert pairs(text=feature(9, empty=(2,))).skipped[NO_TEXT] == 1


def test_without_a_split_every_row_counts_and_a_subset_narrows_them() -> None:
    assert pairs(split=None).images.tolist() == [0, 1, 2]
    assert pairs(split=None, rows=np.array([3, 1, 1, 0])).images.tolist() == [0, 1]
    assert pairs(split="test", rows=np.array([1, 2])).images.tolist() == [2]
    assert pairs(language="de").texts.tolist() == [3, 6]


def test_what_the_store_has_not_is_refused_with_what_it_has() -> None:
    with pytest.raises(UsageError, match=r"no split 'dev'[\s\S]*train 1, test 3"):
        pairs(split="dev")
    with pytest.raises(UsageError, match=r"language 'fr'[\s\S]*en 7, de 2"):
        pairs(language="fr")
    with pytest.raises(UsageError, match=r"rows outside the store[\s\S]*0 to 4"):
        pairs(rows=np.array([5]))
    with pytest.raises(UsageError, match="nothing to measure"):
        pairs(split="test", rows=np.array([3]))


def test_images_of_a_split_are_rising_and_readable() -> None:
    rows, skipped = select_images(Tables(), feature(5, bad=(0,)), split="test")
    assert (rows.tolist(), skipped) == ([2, 3], {NO_PICTURE: 1})
