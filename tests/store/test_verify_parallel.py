"""Verification by threads, by samples and of several stores; sums of joined bytes."""

from __future__ import annotations

import json
from types import SimpleNamespace

import google_crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.errors import StoreNotFoundError, UsageError
from embedstore.store import open_store, parse_share, shard, verify_store
from embedstore.store.checks.sample import Sample
from embedstore.store.crc import combine
from embedstore.testing.stores import write_random_store


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_the_sum_of_joined_bytes_follows_from_the_parts(a, b):
    whole = google_crc32c.value(a + b)
    assert combine(google_crc32c.value(a), google_crc32c.value(b), len(b)) == whole


@pytest.mark.parametrize("nbytes", [1 << 17, (1 << 19) + 3])
def test_long_parts_are_joined_too(nbytes):
    data = np.random.default_rng(0).bytes(nbytes + 1000)
    crc = combine(google_crc32c.value(data[:1000]), google_crc32c.value(data[1000:]), nbytes)
    assert crc == google_crc32c.value(data)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_random_store(
        tmp_path_factory.mktemp("verify") / "s",
        images=200,
        captions=2,
        shard_rows=32,
        image_tokens=256,
        image_width=128,
    )


def flipped(store, path, at=-30):
    """Flip one bit of a file while the block runs."""

    class Flip:
        def __enter__(self):
            self.path = store.path / path
            self.data = self.path.read_bytes()
            changed = bytearray(self.data)
            changed[at] ^= 4
            self.path.write_bytes(changed)

        def __exit__(self, *error):
            self.path.write_bytes(self.data)

    return Flip()


def test_threads_change_nothing_but_the_time(store):
    with (
        flipped(store, "features/vision/tokens/c/3/0/0", 5),
        flipped(store, "features/words/pooled/c/0/0", 9),
    ):
        one, many = verify_store(store.path, workers=1), verify_store(store.path, workers=5)
        assert one == many
        assert [(f.feature, f.unit) for f in many.corrupt] == [("vision", 3), ("words", 0)]
        assert "chunk 0: rows 96 to" in many.corrupt[0].problem
    with pytest.raises(UsageError, match="bad number of threads"):
        verify_store(store.path, workers=0)


def test_every_byte_is_read_once(store):
    report = verify_store(store.path)
    files = [p for p in store.path.glob("features/*/*/c/**/*") if p.is_file()]
    assert report.nbytes == report.nbytes_read == sum(p.stat().st_size for p in files)
    assert report.chunks == report.chunks_tested > 80
    assert report.sample is None


def test_progress_counts_every_unit_once(store):
    seen = []
    verify_store(store.path, workers=4, on_progress=lambda *at: seen.append(at))
    units = {name: store.header(name).units for name in store.features()}
    assert seen == [(name, done, n) for name, n in units.items() for done in range(1, n + 1)]


def test_a_sample_reads_its_share_and_says_so(store):
    report = verify_store(store.path, sample=0.1, seed=3)
    assert report.findings == ()
    assert (report.sample, report.seed) == (0.1, 3)
    assert 0.03 < report.chunks_tested / report.chunks < 0.25
    assert 0 < report.nbytes_read < 0.4 * report.nbytes
    assert json.loads(report.to_json())["chunks_tested"] == report.chunks_tested
    assert verify_store(store.path, sample=0.1, seed=3, workers=3) == report
    assert verify_store(store.path, sample=1.0).chunks_tested == report.chunks


def test_a_sample_touches_every_array_and_finds_what_it_reads(store):
    report = verify_store(store.path, sample=1e-9)
    arrays = sum(len(store.header(name).arrays) for name in store.features())
    assert report.chunks_tested == arrays
    header = store.header("vision")
    spec = header.array("tokens")
    used = 32 // spec.chunk
    chosen = {u: Sample(share=0.3, seed=1).chunks(header, spec, u, used) for u in range(header.units)}
    unit, chunks = next((u, c) for u, c in chosen.items() if len(c))
    step = shard.slot_bytes(2 * int(np.prod(spec.shape[1:])) * spec.chunk)
    with flipped(store, f"features/vision/tokens/c/{unit}/0/0", int(chunks[0]) * step + 7):
        found = verify_store(store.path, sample=0.3, seed=1)
        assert [(f.feature, f.unit) for f in found.corrupt] == [("vision", unit)]
        assert "does not agree with its checksum" in found.corrupt[0].problem


@pytest.mark.parametrize(
    "damage",
    ["features/vision/pooled/c/1/0", "features/words/units.parquet", "tables/texts/part-00000.parquet"],
)
def test_a_sample_still_checks_everything_small(store, damage):
    with flipped(store, damage, -3 if "pooled" in damage else 40):
        assert not verify_store(store.path, sample=1e-9).sound


def test_chunks_in_another_order_are_not_the_recorded_bytes(store):
    """They read well, since every chunk agrees with its own checksum; yet the record is of other bytes."""
    path = store.path / "features/vision/tokens/c/2/0/0"
    data = path.read_bytes()
    spec = store.header("vision").array("tokens")
    step = shard.slot_bytes(2 * int(np.prod(spec.shape[1:])) * spec.chunk)
    count = spec.shard // spec.chunk
    index = np.frombuffer(data, "<u8", 2 * count, len(data) - 16 * count - 4).reshape(count, 2).copy()
    index[[0, 1], 0] = index[[1, 0], 0]
    table = index.tobytes()
    swapped = data[step : 2 * step] + data[:step] + data[2 * step : len(data) - 16 * count - 4]
    path.write_bytes(swapped + table + google_crc32c.value(table).to_bytes(4, "little"))
    try:
        before = store["vision"].read("tokens", 64, 96)
        assert before.shape[0] == 32
        report = verify_store(store.path)
        assert ["index checksum" in f.problem for f in report.corrupt] == [True]
    finally:
        path.write_bytes(data)


def test_shares_are_read_from_words():
    assert [parse_share(t) for t in ("1%", "0.5 %", "0.25", " 100% ")] == [0.01, 0.005, 0.25, 1.0]
    for bad in ("", "%", "1%%", "a", "1% of it"):
        with pytest.raises(UsageError, match=r"(?s)bad share.*such as 1%"):
            parse_share(bad)
    for bad in (0, -0.1, 1.5, float("nan")):
        with pytest.raises(UsageError, match="bad share"):
            Sample(share=bad)


def test_several_stores_are_checked_part_by_part(store, tmp_path):
    more = {"images": 20, "captions": 1, "image_tokens": 256, "image_width": 128}
    other = write_random_store(tmp_path / "t", ids="t", card_seed=0, **more)
    path = f"{store.path}+{other.path}"
    report = verify_store(path)
    assert report.findings == ()
    assert report.units == verify_store(store.path).units + verify_store(other.path).units
    with flipped(SimpleNamespace(path=other.path), "features/vision/status/c/0", 0):
        (found,) = verify_store(path).corrupt
        assert found.where == f"{other.path}/features/vision/status/c/0"
    with pytest.raises(UsageError, match="verify --repair works on one store"):
        verify_store(path, repair=True)
    with pytest.raises(UsageError, match="cannot be repaired"):
        verify_store(store.path, repair=True, sample=0.5)
    twin = write_random_store(tmp_path / "u", ids="t", card_seed=1, **more)
    problems = [str(f) for f in verify_store(f"{other.path}+{twin.path}").findings]
    assert any("20 ids of the table 'images' stand in both" in p for p in problems)
    away = write_random_store(tmp_path / "v", ids="v", card_seed=1, **more)
    apart = verify_store(f"{other.path}+{away.path}")
    assert apart.sound
    assert [f.where for f in apart.findings] == ["vision", "words"]
    with pytest.raises(StoreNotFoundError):
        verify_store(f"{other.path}+{tmp_path}/gone")
    assert open_store(path).complete("vision")
