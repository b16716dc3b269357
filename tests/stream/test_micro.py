"""Steps as micro-batches, read several times over; several captions of a picture."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedstore.errors import UsageError
from embedstore.store.order import epoch_plan
from embedstore.stream.cached_pairs import CachedPairs
from embedstore.stream.choice import CaptionTable
from embedstore.stream.micro import Micro
from embedstore.stream.pairs import PairStream
from embedstore.testing.stores import write_random_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_random_store(tmp_path_factory.mktemp("micro") / "store", images=60, captions=3)


def pairs(store, **options):
    rows = np.arange(store.plan.images)
    return PairStream(
        store, **{"image": "vision", "text": "words", "rows": rows, "batch_size": 20, **options}
    )


@given(rows=st.integers(2, 200), batch=st.integers(2, 80), micro=st.integers(1, 90), seed=st.integers(0, 3))
def test_every_step_is_cut_into_nearly_equal_parts_of_the_same_rows(rows, batch, micro, seed):
    plan = epoch_plan(np.arange(rows) * 3, seed=seed, epoch=1, batch=batch, block_rows=4, group_rows=30)
    how = Micro(rows=micro)
    fine, counts = how.cut(plan), how.counts(plan)
    sizes = np.diff(fine.batches)
    assert sizes.max() <= micro
    assert len(fine.groups) == plan.steps + 1
    assert np.diff(fine.groups).tolist() == counts.tolist()
    for i in range(plan.steps):
        low, high = plan.batches[i : i + 2]
        assert fine.batches[fine.groups[i]] == low
        assert np.ptp(sizes[fine.groups[i] : fine.groups[i + 1]]) <= 1
        np.testing.assert_array_equal(fine.rows[low:high], np.sort(plan.rows[low:high]))


@pytest.mark.parametrize("buffer_mb", [0.01, 512])
@pytest.mark.parametrize("captions", [1, 2])
def test_a_stream_brings_each_step_as_often_as_told(store, buffer_mb, captions):
    stream, how = pairs(store, buffer_mb=buffer_mb, captions=captions), Micro(rows=6, passes=3)
    vision, words = store["vision"], store["words"]
    plan = stream.plan(2)
    with (
        stream.epoch(2, micro=how) as batches,
        CachedPairs(stream, torch.device("cpu")).epoch(2, micro=how) as cached,
    ):
        for i, count in enumerate(how.counts(plan).tolist()):
            seen = []
            for _ in range(3):
                once = []
                for batch, kept in zip(islice(batches, count), islice(cached, count), strict=True):
                    once.append((batch.image.rows.tolist(), batch.text.rows.tolist()))
                    assert once[-1] == (kept.image.rows.tolist(), kept.text.rows.tolist())
                    np.testing.assert_array_equal(
                        batch.image.tokens.numpy(), vision.gather("tokens", batch.image.rows)
                    )
                    np.testing.assert_array_equal(
                        batch.text.tokens.numpy(), words.text_tokens(batch.text.rows).tokens
                    )
                    assert torch.equal(batch.text.tokens, kept.text.tokens)
                seen.append(once)
            assert seen[0] == seen[1] == seen[2]
            rows = [row for images, _ in seen[0] for row in images]
            assert rows == sorted(plan.rows[plan.batches[i] : plan.batches[i + 1]].tolist())
        assert next(batches, None) is None


def test_a_small_step_is_read_once(store, monkeypatch):
    stream, reads = pairs(store), []
    plain = PairStream._read
    monkeypatch.setattr(PairStream, "_read", lambda *args: reads.append(1) or plain(*args))
    assert sum(1 for _ in stream.epoch(0, micro=Micro(rows=5, passes=4))) == 3 * 4 * 4
    assert len(reads) == 3


def test_several_captions_belong_to_their_pictures(store):
    image_of = store.texts()["image"].to_numpy()
    for epoch in (0, 1):
        for batch in pairs(store, captions=2).epoch(epoch):
            assert len(batch.text.rows) == 2 * len(batch.image.rows)
            np.testing.assert_array_equal(image_of[batch.text.rows], batch.image.rows[batch.owner])
            assert len(set(batch.text.rows.tolist())) == len(batch.text.rows)
            assert len(batch.text.offsets) == len(batch.text.rows) + 1
    for batch in pairs(store, captions=9).epoch(0):
        assert np.bincount(batch.owner).tolist() == [3] * len(batch.image.rows)


def test_several_captions_are_a_pure_even_draw():
    counts = [1, 4, 2, 5]
    owners = np.repeat(np.arange(4), counts)
    table = CaptionTable.build(images=4, image_of=owners, usable=np.ones(12, bool))
    rows, drawn = np.array([3, 0, 1]), np.zeros(12, int)
    for epoch in range(2000):
        texts, number = table.choose_several(rows, most=2, seed=5, epoch=epoch)
        assert number.tolist() == [2, 1, 2]
        assert owners[texts].tolist() == [3, 3, 0, 1, 1]
        drawn[texts] += 1
    again, _ = table.choose_several(rows, most=2, seed=5, epoch=1999)
    assert again.tolist() == texts.tolist()
    one, _ = table.choose_several(rows[:1], most=2, seed=5, epoch=1999)
    assert one.tolist() == texts[:2].tolist()
    # Of four, two: each comes in half the epochs; of five, two: in two fifths. Five deviations are 112.
    assert np.abs(drawn[1:5] - 1000).max() < 112
    assert np.abs(drawn[7:] - 800).max() < 112
    assert drawn[[0, 5, 6]].tolist() == [2000, 0, 0]


def test_what_cannot_be_is_refused(store):
    with pytest.raises(UsageError, match="0 rows, 2 passes"):
        Micro(rows=0)
    with pytest.raises(UsageError, match="captions 0"):
        pairs(store, captions=0)
