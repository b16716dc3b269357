from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.errors import CorruptStoreError, StorageValueError
from embedstore.store import feature_nbytes, geometry, open_store, plan_feature
from embedstore.testing.stores import random_card, random_plan, write_random_store


@given(rows=st.integers(0, 10**9), row_bytes=st.integers(1, 1 << 24))
def test_shard_rows_are_a_power_of_two_within_the_bounds(rows, row_bytes):
    found = geometry.default_shard_rows(rows=rows, row_bytes=row_bytes)
    assert found & (found - 1) == 0
    assert found * row_bytes <= geometry.SHARD_BYTES
    assert found >= 32
    assert found == 32 or found <= -(-rows // 64)
    doubled = 2 * found
    assert doubled * row_bytes > geometry.SHARD_BYTES or doubled > max(32, -(-rows // 64))


@given(shard=st.sampled_from([1, 2, 32, 77 * 64, 1024 * 256]), place_bytes=st.integers(1, 1 << 21))
def test_chunks_divide_the_shard_and_stay_small(shard, place_bytes):
    found = geometry.chunk_places(shard=shard, place_bytes=place_bytes)
    assert found & (found - 1) == 0
    assert shard % found == 0
    assert found == 1 or found * place_bytes <= geometry.CHUNK_BYTES


@pytest.mark.parametrize(
    ("rows", "shard_rows", "units"), [(100, 32, 4), (4096, 64, 64), (20_000, 256, 79), (1_000_000, 2048, 489)]
)
def test_some_64_units_and_the_size_limit(rows, shard_rows, units):
    card = random_card("image", width=384, tokens=256)
    header = plan_feature(
        name="v", plan=random_plan(images=10, captions=1).model_copy(update={"images": rows}), card=card
    )
    assert (header.shard_rows, header.units) == (shard_rows, units)
    tokens = header.array("tokens")
    assert tokens.chunk * 256 * 384 * 2 in range(128 << 10, (512 << 10) + 1)


def test_shard_rows_that_are_no_power_of_two_are_refused():
    with pytest.raises(StorageValueError, match=r"(?s)found: 100.*64 or 128"):
        plan_feature(
            name="v",
            plan=random_plan(images=10, captions=1),
            card=random_card("image", width=4, tokens=4),
            shard_rows=100,
        )


def test_the_predicted_bytes_of_images_are_exact(tmp_path):
    store = write_random_store(tmp_path / "store", images=75)
    assert feature_nbytes(store.header("vision")) == store["vision"].manifest.nbytes


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rows", 10**12),
        ("units", 7),
        ("max_tokens", 5),
        ("table", "texts"),
        ("plan_fingerprint", "0" * 64),
        ("arrays", []),
    ],
)
def test_a_header_that_does_not_follow_from_card_and_plan_is_refused(tmp_path, field, value):
    store = write_random_store(tmp_path / "store")
    for name in ("header.json", "manifest.json"):
        path = store.path / "features/vision" / name
        document = json.loads(path.read_text())
        (document["header"] if name == "manifest.json" else document)[field] = value
        path.write_text(json.dumps(document))
    with pytest.raises(CorruptStoreError, match=f"header's {field}"):
        open_store(store.path)["vision"]
