from __future__ import annotations

import numpy as np
import pytest

from embedstore.store import verify_store
from embedstore.testing.stores import CLASSES, write_random_store


def test_the_same_arguments_give_the_same_bytes(tmp_path, kit):
    write_random_store(tmp_path / "a", seed=3)
    write_random_store(tmp_path / "b", seed=3)
    other = write_random_store(tmp_path / "c", seed=4)
    assert kit.tree(tmp_path / "a") == kit.tree(tmp_path / "b") != kit.tree(tmp_path / "c")
    assert verify_store(other.path).findings == ()


@pytest.mark.parametrize(
    "options", [{"prefix": 0, "policy": "float32"}, {"prefix": 3, "captions": 1, "shard_rows": 16}]
)
def test_shapes_follow_the_arguments(tmp_path, options):
    store = write_random_store(
        tmp_path / "s", images=40, image_tokens=4, image_width=5, text_width=6, **options
    )
    vision, words = store["vision"], store["words"]
    assert vision.read("tokens", 0, 40).shape == (40, 4, 5)
    assert ("prefix" in vision.arrays) == (options["prefix"] > 0)
    assert words.read("pooled", 0, words.rows).shape == (40 * options.get("captions", 2), 6)
    assert words.lengths().min() >= 1
    assert words.lengths().max() <= 8
    assert store.plan.splits == {"train": 32, "val": 4, "test": 4}
    assert set(store.images(["label"])["label"].to_pylist()) <= set(CLASSES)


def test_an_image_and_its_captions_have_something_in_common(tmp_path):
    store = write_random_store(tmp_path / "s", images=400, captions=1, policy="float32")
    seen = store["vision"].read("pooled", 0, 400)
    said = store["words"].read("pooled", 0, 400)
    fitted, *_ = np.linalg.lstsq(said[:300], seen[:300], rcond=None)
    guess = said[300:] @ fitted
    scores = guess @ seen[300:].T - 0.5 * (seen[300:] ** 2).sum(axis=1)
    rank = (scores > np.diag(scores)[:, None]).sum(axis=1)
    assert (rank < 10).mean() > 0.5
