"""Paired reading: what a batch holds, which rows come, and in which order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.errors import StoreError, UsageError
from embedstore.store import FeatureWriter, open_store
from embedstore.stream.embed import embed_images, embed_texts, iter_images, iter_texts
from embedstore.stream.pairs import PairStream
from embedstore.testing.stores import write_random_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_random_store(tmp_path_factory.mktemp("stores") / "plain", images=50, captions=3)


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A store whose image rows 3 and 8 and text rows 0, 1 (all of image 0) and 2 are quarantined."""
    from embedstore.documents import QuarantinedRow
    from embedstore.store import plan_feature

    path = tmp_path_factory.mktemp("stores") / "broken"
    plain = write_random_store(path, images=20, captions=2)
    for name, rows in (("vision", (3, 8)), ("words", (0, 1, 2))):
        old = plain[name]
        header = plan_feature(
            name=f"{name}2", plan=plain.plan, card=old.card, policy="float16", shard_rows=1024
        )
        arrays = {a: old.read(a, 0, old.rows) for a in old.arrays if a != "status" and name == "vision"}
        if name == "words":
            lengths = old.lengths().copy()
            lengths[list(rows)] = 0
            good = np.array([r for r in range(old.rows) if r not in rows])
            arrays = {
                "tokens": old.text_tokens(good).tokens,
                "lengths": lengths,
                "pooled": old.read("pooled", 0, old.rows),
            }
        writer = FeatureWriter.open(path, header)
        writer.write_unit(
            0, arrays, quarantined=[QuarantinedRow(row=r, id=f"r{r}", reason="broken") for r in rows]
        )
        writer.finish()
    return open_store(path)


def pairs(store, **options):
    rows = options.pop("rows", np.arange(store.plan.images))
    return PairStream(store, **{"image": "vision", "text": "words", "rows": rows, "batch_size": 8, **options})


def rows_of(stream, epoch):
    with stream.epoch(epoch) as batches:
        return [(b.image.rows.copy(), b.text.rows.copy()) for b in batches]


def test_a_batch_holds_the_stored_tokens_of_its_rows(store):
    vision, words = store["vision"], store["words"]
    with pairs(store).epoch(0) as batches:
        for batch in batches:
            images, texts = batch.image.rows, batch.text.rows
            np.testing.assert_array_equal(batch.image.tokens.numpy(), vision.gather("tokens", images))
            np.testing.assert_array_equal(batch.image.prefix.numpy(), vision.gather("prefix", images))
            assert batch.image.tokens.dtype == torch.float16
            assert batch.image.pooled is None
            for i, row in enumerate(texts):
                own = batch.text.tokens[batch.text.offsets[i] : batch.text.offsets[i + 1]]
                np.testing.assert_array_equal(own.numpy(), words.text_tokens([row]).tokens)
            assert (store.texts()["image"].to_numpy()[texts] == images).all()


@settings(max_examples=25, deadline=None)
@given(batch_size=st.integers(2, 60), count=st.integers(2, 50), seed=st.integers(0, 9))
def test_every_row_comes_once_in_even_batches(store, batch_size, count, seed):
    stream = pairs(store, rows=np.arange(50)[-count:], batch_size=batch_size, seed=seed)
    sizes = [len(images) for images, _ in rows_of(stream, 1)]
    assert sorted(np.concatenate([i for i, _ in rows_of(stream, 1)])) == list(range(50 - count, 50))
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 2
    assert max(sizes) <= max(batch_size, 3)
    assert len(sizes) == stream.steps


def test_the_order_is_the_same_again_and_other_in_another_epoch_or_seed(store):
    def flat(stream, epoch):
        found = rows_of(stream, epoch)
        return np.concatenate([np.stack(pair) for pair in found], axis=1)

    first = flat(pairs(store), 0)
    assert (flat(pairs(store), 0) == first).all()
    assert (flat(pairs(store, buffer_mb=0.001), 0) == first).all()
    for other in (flat(pairs(store), 1), flat(pairs(store, seed=1), 0)):
        assert (other[0] != first[0]).any()
        same_picture = other[1][np.argsort(other[0])] // 3 == first[1][np.argsort(first[0])] // 3
        assert same_picture.all()
        assert (other[1][np.argsort(other[0])] != first[1][np.argsort(first[0])]).any()


def test_pooled_is_read_where_there_is_no_prefix(tmp_path):
    bare = write_random_store(tmp_path / "s", images=10, prefix=0)
    with pairs(bare).epoch(0) as batches:
        batch = next(batches)
    assert batch.image.prefix is None
    np.testing.assert_array_equal(
        batch.image.pooled.numpy(), bare["vision"].gather("pooled", batch.image.rows)
    )


def test_pooled_is_read_beside_registers_without_cls(tmp_path):
    bare = write_random_store(tmp_path / "s", images=10, prefix=3, registers=3)
    with pairs(bare).epoch(0) as batches:
        image = next(batches).image
    np.testing.assert_array_equal(image.prefix.numpy(), bare["vision"].gather("prefix", image.rows))
    np.testing.assert_array_equal(image.pooled.numpy(), bare["vision"].gather("pooled", image.rows))


def test_quarantined_rows_and_pictures_without_captions_are_left_out_and_counted(broken):
    stream = pairs(broken, image="vision2", text="words2")
    assert stream.skipped == {"image quarantined": 2, "no caption": 1}
    found = rows_of(stream, 0)
    assert sorted(np.concatenate([i for i, _ in found])) == [r for r in range(20) if r not in (0, 3, 8)]
    for epoch in range(5):
        chosen = np.concatenate([t for _, t in rows_of(stream, epoch)])
        assert not np.isin(chosen, [0, 1, 2]).any()
    with stream.epoch(0) as batches:
        assert all(torch.isfinite(b.image.tokens).all() for b in batches)


def test_what_is_not_there_is_refused_with_what_is(store):
    with pytest.raises(UsageError, match="languages en 150"):
        pairs(store, language="fr")
    with pytest.raises(UsageError, match="roles caption 150"):
        pairs(store, role="long")
    with pytest.raises(StoreError, match="did you mean 'vision'"):
        pairs(store, image="vison")
    with pytest.raises(UsageError, match="not an image feature"):
        pairs(store, image="words")
    with pytest.raises(UsageError, match="not a text feature"):
        pairs(store, text="vision")
    with pytest.raises(UsageError, match="too few pairs"):
        pairs(store, rows=np.array([4]))


def test_evaluation_reads_rows_in_the_order_given(store):
    rows = np.array([7, 3, 3, 49, 0])
    with iter_images(store["vision"], rows, batch=2) as stream:
        parts = [(b.rows.tolist(), b.tokens.numpy().copy()) for b in stream]
    assert [r for r, _ in parts] == [[7, 3], [3, 49], [0]]
    np.testing.assert_array_equal(
        np.concatenate([t for _, t in parts]), store["vision"].gather("tokens", rows)
    )
    with iter_texts(store["words"], rows, batch=3) as stream:
        assert [len(b.offsets) - 1 for b in stream] == [3, 2]


def test_embedding_a_feature_puts_each_row_in_its_place(store):
    rows = np.array([9, 2, 30])
    found = embed_images(store["vision"], rows, lambda b: b.tokens.float().mean((1, 2))[:, None], batch=2)
    wanted = store["vision"].gather("tokens", rows).astype(np.float32).mean((1, 2))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, 0], wanted, rtol=1e-5, atol=1e-6)
    lengths = embed_texts(store["words"], rows, lambda b: b.offsets.diff()[:, None], batch=2)
    assert lengths[:, 0].tolist() == store["words"].lengths()[rows].tolist()


def test_embedding_quarantined_rows_is_refused(broken):
    with pytest.raises(UsageError, match="2 such rows, the first is row 3"):
        embed_images(broken["vision2"], np.arange(20), lambda b: b.tokens)
    with pytest.raises(UsageError, match="no rows"):
        embed_images(broken["vision2"], np.arange(0), lambda b: b.tokens)
