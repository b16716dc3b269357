"""Tokens kept on the device that trains: to the bit what streaming brings; refused where they cannot fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embedstore.encode import recode_feature
from embedstore.errors import UsageError
from embedstore.store import open_store
from embedstore.stream import cache
from embedstore.stream.cache import DeviceCache, cache_bytes
from embedstore.stream.cached_pairs import CachedPairs, pairs_on_device
from embedstore.stream.pairs import PairStream
from embedstore.testing.stores import write_random_store

POLICIES = ["bfloat16", "int8", "fp8", "pool-2x2", "merge-4+int8", "pca-8", "pq-4", "cls+mean"]
HOST = torch.device("cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    place = tmp_path_factory.mktemp("stores") / "plain"
    write_random_store(place, images=300, captions=3)
    for policy in POLICIES:
        recode_feature(place, "vision", policy=policy, name=f"vision-{policy}".replace("+", "-"))
    recode_feature(place, "words", policy="int8", name="words-int8")
    return open_store(place)


def pairs(store, image="vision", text="words", **options):
    rows = np.arange(5, 300, 2)
    return PairStream(store, image=image, text=text, rows=rows, batch_size=40, seed=3, **options)


def same(one, other):
    names = ("tokens", "prefix", "pooled", "weights", "offsets")
    found = [(getattr(one, n, None), getattr(other, n, None)) for n in names]
    assert np.array_equal(one.rows, other.rows)
    assert all((a is None) == (b is None) for a, b in found)
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in found if a is not None)


@pytest.mark.parametrize("policy", ["", *POLICIES])
def test_cached_batches_are_streamed_batches_to_the_bit(store, policy):
    image = f"vision-{policy}".replace("+", "-") if policy else "vision"
    text = "words-int8" if policy == "int8" else "words"
    stream = pairs(store, image, text)
    cached = CachedPairs(stream, HOST)
    for epoch in (0, 3):
        with stream.epoch(epoch) as streamed, cached.epoch(epoch) as kept:
            count = 0
            for one, other in zip(streamed, kept, strict=True):
                moved = one.to(HOST)
                assert same(moved.image, other.image)
                assert same(moved.text, other.text)
                count += 1
        assert count == stream.steps == cached.steps
    image_feature, text_feature = stream.features
    wanted = cache_bytes(image_feature, stream.rows) + cache_bytes(text_feature, stream.texts)
    assert cached.nbytes == wanted


def test_what_is_stored_is_kept_not_what_it_decodes_to(store):
    plain, small = (DeviceCache(store[name], "cpu") for name in ("vision", "vision-int8"))
    assert plain.nbytes == 300 * (9 + 1) * 16 * 2
    assert small.nbytes == 300 * (9 + 1) * (16 + 4)
    assert small.batch(np.array([1])).tokens.dtype == torch.float32


def test_a_cache_answers_for_its_rows_in_any_order(store):
    vision, words = store["vision"], store["words"]
    rows = np.array([48, 2, 2, 10])
    batch = DeviceCache(vision, "cpu", rows=np.arange(0, 50, 2)).batch(rows)
    np.testing.assert_array_equal(batch.tokens.numpy(), vision.gather("tokens", rows))
    np.testing.assert_array_equal(batch.prefix.numpy(), vision.gather("prefix", rows))
    packed, texts = words.text_tokens(rows), DeviceCache(words, "cpu").batch(rows)
    np.testing.assert_array_equal(texts.tokens.numpy(), packed.tokens)
    np.testing.assert_array_equal(texts.offsets.numpy(), packed.offsets)


def test_rows_that_are_not_there_are_refused(store):
    kept = DeviceCache(store["vision"], "cpu", rows=np.arange(0, 50, 2))
    for bad in (np.array([1]), np.array([300]), np.array([-1])):
        with pytest.raises(UsageError, match="not in the cache"):
            kept.batch(bad)
    with pytest.raises(UsageError, match="holds no texts"):
        kept.texts(np.array([0]))
    with pytest.raises(UsageError, match="holds no images"):
        DeviceCache(store["words"], "cpu").images(np.array([0]))
    with pytest.raises(UsageError, match="the cache is empty"):
        DeviceCache(store["vision"], "cpu", rows=np.arange(0)).batch(np.array([0]))


def test_what_does_not_fit_is_streamed_or_refused_with_both_numbers(store, monkeypatch):
    stream = pairs(store)
    image, text = stream.features
    needed = cache_bytes(image, stream.rows) + cache_bytes(text, stream.texts)
    gpu = torch.device("cuda")
    monkeypatch.setattr(cache, "free_bytes", lambda _: int(needed / cache.SHARE_HOST) + 2)
    assert isinstance(pairs_on_device(stream, HOST, "yes"), CachedPairs)
    monkeypatch.setattr(cache, "free_bytes", lambda _: needed)
    with pytest.raises(UsageError, match=r"(?s)do not fit.*GB.*free on cpu.*stream them"):
        pairs_on_device(stream, HOST, "yes")
    assert pairs_on_device(stream, gpu, "auto") is stream
    with pytest.raises(UsageError, match="do not fit"):
        DeviceCache(store["vision"], "cpu", share=0.1)


def test_the_host_is_used_only_when_asked(store):
    stream = pairs(store)
    assert pairs_on_device(stream, HOST, "auto") is stream
    assert pairs_on_device(stream, HOST, "no") is stream
    with pytest.raises(UsageError, match=r"(?s)bad choice.*auto, yes, no"):
        pairs_on_device(stream, HOST, "maybe")


def test_free_memory_of_the_host_is_between_nothing_and_all(monkeypatch):
    assert 0 < cache.free_bytes(HOST) < 2**50
    monkeypatch.setattr(cache, "free_memory", lambda: None)
    assert 0 < cache.free_bytes(HOST) < 2**50


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("image", ["vision", "vision-int8", "vision-bfloat16", "vision-pca-8"])
def test_a_gpu_keeps_what_it_would_have_been_sent(store, image):
    gpu = torch.device("cuda")
    stream = pairs(store, image, pin=True)
    cached = pairs_on_device(stream, gpu)
    assert isinstance(cached, CachedPairs)
    with stream.epoch(1) as streamed, cached.epoch(1) as kept:
        for one, other in zip(streamed, kept, strict=True):
            moved = one.to(gpu)
            assert other.image.tokens.is_cuda
            assert other.text.tokens.is_cuda
            assert same(moved.image, other.image)
            assert same(moved.text, other.text)
            torch.cuda.synchronize()
