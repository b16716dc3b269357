"""The parts of a common plan: together every batch, apart nothing twice."""

import numpy as np
import pytest
import torch

from embedstore.errors import UsageError
from embedstore.store.order import epoch_plan
from embedstore.stream.cached_pairs import pairs_on_device
from embedstore.stream.pairs import PairStream
from embedstore.stream.share import Share, rows_of
from embedstore.testing.stores import write_random_store


def plan(rows=103, batch=20):
    return epoch_plan(np.arange(rows), seed=1, epoch=2, batch=batch, block_rows=4, group_rows=40)


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_parts_of_a_batch_are_the_batch(world):
    whole = plan()
    parts = [Share(rank=rank, world=world).of(whole) for rank in range(world)]
    for k in range(whole.steps):
        own = [part.rows[part.batches[k] : part.batches[k + 1]] for part in parts]
        sizes = [len(rows) for rows in own]
        assert max(sizes) - min(sizes) <= 1
        # In the order of the ranks they ascend.
        assert np.concatenate(own).tolist() == sorted(whole.rows[whole.batches[k] : whole.batches[k + 1]])
    for part in parts:
        assert (part.groups == whole.groups).all()
        assert len(part.rows) == part.batches[-1]


def test_what_cannot_be_shared_is_refused():
    with pytest.raises(UsageError, match=r"(?s)17 pictures, 18 processes.*larger batch_size"):
        Share(rank=0, world=18).of(plan())
    with pytest.raises(UsageError, match="2 of 2"):
        Share(rank=2, world=2)


def test_streams_bring_their_part_of_every_batch_from_disk_and_from_memory(tmp_path):
    store = write_random_store(tmp_path / "store", images=50, captions=2)
    options = {"image": "vision", "text": "words", "rows": np.arange(50), "batch_size": 12, "captions": 2}
    whole = PairStream(store, **options)
    parts = [PairStream(store, **options, share=Share(rank=rank, world=2)) for rank in range(2)]
    held = [pairs_on_device(part, torch.device("cpu"), "yes", epochs=3) for part in parts]
    for epoch in range(3):
        for batch, *own in zip(
            *(list(stream.epoch(epoch)) for stream in (whole, *parts, *held)), strict=True
        ):
            for side in ("image", "text"):
                rows = np.concatenate([getattr(part, side).rows for part in own[:2]])
                assert sorted(rows) == sorted(getattr(batch, side).rows)
                for streamed, cached in zip(own[:2], own[2:], strict=True):
                    assert (getattr(streamed, side).rows == getattr(cached, side).rows).all()
    assert parts[0].steps == whole.steps
    assert (parts[0].texts == whole.texts).all()
    assert (rows_of(part.plan(0) for part in parts) == whole.rows).all()
