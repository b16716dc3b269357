"""Streams of one feature, and data sets for a DataLoader: every row once, whatever interrupts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from embedstore.errors import UsageError
from embedstore.stream.cache import DeviceCache
from embedstore.stream.dataset import TokenDataset, TokenStream
from embedstore.testing.stores import write_random_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_random_store(tmp_path_factory.mktemp("stores") / "plain", images=50, captions=3)


def rows_of(stream, steps=None):
    found = []
    for batch in stream:
        found.append(batch.rows.copy())
        if len(found) == steps:
            break
    return found


def test_an_epoch_brings_every_row_once_with_its_tokens(store):
    vision = store["vision"]
    seen = []
    for batch in TokenStream(vision, batch_size=7):
        np.testing.assert_array_equal(batch.tokens.numpy(), vision.gather("tokens", batch.rows))
        np.testing.assert_array_equal(batch.prefix.numpy(), vision.gather("prefix", batch.rows))
        seen.append(batch.rows)
    assert len(seen) == len(TokenStream(vision, batch_size=7)) == 8
    assert sorted(np.concatenate(seen)) == list(range(50))


def test_texts_come_packed_and_equal_to_one_by_one(store):
    words = store["words"]
    seen = []
    for batch in TokenStream(words, batch_size=16, buffer_mb=0.01):
        for i, row in enumerate(batch.rows):
            own = batch.tokens[batch.offsets[i] : batch.offsets[i + 1]]
            np.testing.assert_array_equal(own.numpy(), words.text_tokens([row]).tokens)
        seen.append(batch.rows)
    assert sorted(np.concatenate(seen)) == list(range(150))


def test_epochs_follow_each_other_and_can_be_set(store):
    stream = TokenStream(store["vision"], batch_size=20, seed=3)
    first, second = np.concatenate(rows_of(stream)), np.concatenate(rows_of(stream))
    assert (first != second).any()
    stream.set_epoch(0)
    assert (np.concatenate(rows_of(stream)) == first).all()
    scan = TokenStream(store["vision"], batch_size=20, shuffle="none")
    assert np.concatenate(rows_of(scan)).tolist() == list(range(50))


@settings(max_examples=40, deadline=None)
@given(
    worlds=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(0, 4)), max_size=3),
    last=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_an_epoch_goes_on_on_another_world_without_repeating_a_row(store, worlds, last, seed):
    """Each world reads some steps, then stops; the next goes on from its state."""
    vision, seen = store["vision"], []
    state = TokenStream(vision, batch_size=1, seed=seed).state_dict()
    for world, batch_size, steps in [*worlds, (last, 5, None)]:
        states = []
        for rank in range(world):
            stream = TokenStream(vision, batch_size=batch_size, seed=seed, rank=rank, world=world)
            stream.load_state_dict(state)
            if steps != 0:
                seen += rows_of(stream, steps)
            states.append(stream.state_dict())
        assert all(s == states[0] for s in states)
        if states[0]["epoch"] > 0:
            break
        state = states[0]
    found = np.concatenate(seen)
    assert len(np.unique(found)) == len(found)
    assert states[0]["epoch"] == 0 or sorted(found) == list(range(50))


def test_a_state_is_a_few_numbers_and_of_its_seed(store):
    stream = TokenStream(store["vision"], batch_size=8, seed=1)
    rows_of(stream, 2)
    state = stream.state_dict()
    assert state == {"seed": 1, "epoch": 0, "done": [[1, 8, 2]]}
    with pytest.raises(UsageError, match="another seed"):
        TokenStream(store["vision"], batch_size=8).load_state_dict(state)


def test_rows_must_ascend_and_be_there(store):
    for rows in ([3, 1], [0, 50], [-1, 3], [2, 2]):
        with pytest.raises(UsageError, match="must ascend"):
            TokenStream(store["vision"], batch_size=2, rows=np.array(rows))


@pytest.mark.parametrize("feature", ["vision", "words"])
@pytest.mark.parametrize(("workers", "start"), [(0, None), (2, "fork"), (2, "spawn")])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_data_set_gives_the_same_under_any_loader(store, feature, workers, start):
    data = TokenDataset(store.path, feature, rows=np.arange(1, 50, 3))
    loader = DataLoader(
        data, batch_size=5, num_workers=workers, multiprocessing_context=start, collate_fn=data.collate
    )
    seen = []
    for batch in loader:
        rows = batch["row"].numpy()
        if feature == "vision":
            wanted = store["vision"].gather("tokens", rows)
        else:
            packed = store["words"].text_tokens(rows)
            wanted = packed.tokens
            assert batch["offsets"].tolist() == packed.offsets.tolist()
        np.testing.assert_array_equal(batch["tokens"].numpy(), wanted)
        seen += rows.tolist()
    assert seen == list(range(1, 50, 3))
    assert len(data) == len(seen)
    assert data[2]["row"].item() == 7


def test_a_stream_that_has_read_works_in_a_fork_too(store):
    """Threads of the parent do not exist in the child: it starts its own."""
    import multiprocessing

    stream = TokenStream(store["vision"], batch_size=9, threads=3)
    wanted = np.concatenate(rows_of(stream)).tolist()
    stream.set_epoch(0)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    def child():
        answers.put(np.concatenate(rows_of(stream)).tolist())

    process = context.Process(target=child)
    process.start()
    assert answers.get() == wanted
    process.join()
    assert process.exitcode == 0


def test_a_feature_is_kept_on_the_device_where_it_fits(store, monkeypatch):
    vision = store["vision"]
    cache = DeviceCache(vision, "cpu", rows=np.arange(0, 50, 2))
    rows = np.array([48, 2, 2, 10])
    batch = cache.batch(rows)
    np.testing.assert_array_equal(batch.tokens.numpy(), vision.gather("tokens", rows))
    np.testing.assert_array_equal(batch.prefix.numpy(), vision.gather("prefix", rows))
    assert cache.nbytes == 25 * (9 + 1) * 16 * 2
    for bad in (np.array([1]), np.array([50])):
        with pytest.raises(UsageError, match="not in the cache"):
            cache.batch(bad)
    with pytest.raises(UsageError, match="only pictures"):
        DeviceCache(store["words"], "cpu")
    monkeypatch.setattr("embedstore.stream.cache.free_bytes", lambda _: 9000)
    with pytest.raises(UsageError, match="does not fit the device's memory"):
        DeviceCache(vision, "cpu")


def test_a_loop_of_exactly_the_length_is_an_epoch(store):
    stream = TokenStream(store["vision"], batch_size=20)
    passes = [
        [batch.rows.copy() for _, batch in zip(range(len(stream)), stream, strict=False)] for _ in range(3)
    ]
    for rows in passes:
        assert sorted(np.concatenate(rows)) == list(range(50))
