"""What is said about free memory, and what a stream makes of it."""

from __future__ import annotations

import numpy as np
import pytest

from embedstore.store import memory
from embedstore.stream import groups
from embedstore.stream.dataset import TokenStream
from embedstore.testing.stores import write_random_store


@pytest.fixture
def system(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("limit", "wanted"), [(None, 2048), ("max\n", 2048), ("1000\n", 1000), ("9999\n", 2048)]
)
def test_free_memory_is_the_systems_within_the_containers_limit(system, limit, wanted):
    (system / "meminfo").write_text("MemTotal: 8 kB\nMemAvailable:        2 kB\n")
    if limit is not None:
        (system / "memory.max").write_text(limit)
    assert memory.free_memory() == wanted


def test_where_nobody_tells_nothing_is_said(system):
    assert memory.free_memory() is None
    (system / "meminfo").write_text("MemTotal: 8 kB\n")
    assert memory.free_memory() is None


@pytest.mark.parametrize(("free", "wanted"), [(None, False), (1 << 40, False), (1000, True)])
def test_a_stream_reads_past_the_cache_what_would_not_stay_in_it(tmp_path, monkeypatch, free, wanted):
    store = write_random_store(tmp_path / "s", images=40)
    plain = [b.tokens.clone() for b in TokenStream(store["vision"], batch_size=16)]
    monkeypatch.setattr(groups, "free_memory", lambda: free)
    stream = TokenStream(store["vision"], batch_size=16)
    assert stream.direct_io is wanted
    for batch, tokens in zip(stream, plain, strict=True):
        np.testing.assert_array_equal(batch.tokens.numpy(), tokens.numpy())
    assert TokenStream(store["vision"], batch_size=16, direct_io=not wanted).direct_io is not wanted
