"""`buffer_mb` bounds what a stream takes, by its buffers' bytes and as the system counts it; batches stay."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.errors import UsageError
from embedstore.stream.dataset import TokenStream
from embedstore.stream.pairs import PairStream
from embedstore.testing.stores import write_random_store

MIB = 1 << 20
GROWTH = """
import re, sys
import numpy as np
from embedstore.store import open_store
from embedstore.stream.pairs import PairStream

def anonymous():
    with open("/proc/self/status") as status:
        return int(re.search(r"RssAnon:\\s+(\\d+) kB", status.read())[1]) / 1024

store = open_store(sys.argv[1])
stream = PairStream(store, image="vision", text="words", rows=np.arange(store.plan.images), batch_size=16,
                    buffer_mb=float(sys.argv[2]), threads=1)
before = most = anonymous()
for epoch in range(2):
    with stream.epoch(epoch) as batches:
        for _ in batches:
            most = max(most, anonymous())
print(most - before)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_random_store(tmp_path_factory.mktemp("stores") / "plain", images=90, captions=3)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """100 MiB of tokens: 128 KiB a picture."""
    place = tmp_path_factory.mktemp("stores") / "large"
    return write_random_store(place, images=800, captions=1, image_tokens=64, image_width=1024)


def batches_of(stream, epoch):
    with stream.epoch(epoch) as batches:
        return [
            (
                b.image.rows.tolist(),
                b.image.tokens.numpy().tobytes(),
                b.text.rows.tolist(),
                b.text.tokens.tolist(),
            )
            for b in batches
        ]


@settings(max_examples=20, deadline=None)
@given(
    megabytes=st.floats(1e-4, 2),
    batch=st.integers(2, 40),
    epoch=st.integers(0, 5),
    shuffle=st.sampled_from(["blocks", "full", "none"]),
)
def test_batches_do_not_depend_on_the_buffers(store, megabytes, batch, epoch, shuffle):
    options = {"image": "vision", "text": "words", "rows": np.arange(90), "batch_size": batch}
    usual = PairStream(store, **options, shuffle=shuffle)
    other = PairStream(store, **options, shuffle=shuffle, buffer_mb=megabytes)
    assert batches_of(usual, epoch) == batches_of(other, epoch)


@pytest.mark.parametrize("megabytes", [5, 20])
def test_the_buffers_of_a_stream_stay_within_the_bound(large, megabytes):
    stream = TokenStream(large["vision"], batch_size=8, buffer_mb=megabytes)
    for _ in stream:
        pass
    taken = sum(part.nbytes for room in stream._spare for part in room.values())
    assert megabytes / 2 < taken / MIB <= megabytes


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to tell anonymous memory")
def test_a_process_grows_by_what_it_was_given(large):
    """Twenty MiB of room for everything else: threads, the order, the tables."""
    grown = {}
    for megabytes in (8, 64):
        done = subprocess.run(
            [sys.executable, "-c", GROWTH, str(large.path), str(megabytes)],
            capture_output=True,
            text=True,
            check=True,
        )
        grown[megabytes] = float(re.findall(r"[\d.]+", done.stdout)[-1])
    assert grown[8] < 8 + 20
    assert 48 < grown[64] < 64 + 20


@pytest.mark.parametrize("megabytes", [0, -1, float("nan"), float("inf")])
def test_no_room_at_all_is_refused(store, megabytes):
    with pytest.raises(UsageError, match=r"(?s)buffers must hold something.*above 0"):
        TokenStream(store["vision"], batch_size=2, buffer_mb=megabytes)
