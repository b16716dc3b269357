"""Stores that earlier versions wrote, and a reader that was written from docs/format.md alone."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest

from embedstore.store import open_store, verify_store
from embedstore.testing.stores import write_random_store

ARCHIVES = sorted((Path(__file__).parents[1] / "data" / "archives").iterdir())


def _stranger():
    spec = importlib.util.spec_from_file_location("stranger", Path(__file__).with_name("stranger.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name)
def archive(request):
    """The store of an archive, and what is in it."""
    with np.load(request.param / "expected.npz", allow_pickle=False) as expected:
        return request.param / "store", dict(expected)


def test_there_is_an_archive_of_version_one():
    assert "v1" in [path.name for path in ARCHIVES]
    for path in ARCHIVES:
        assert sum(p.stat().st_size for p in path.rglob("*")) < 300_000


def test_an_archive_is_read_as_it_was_written(archive):
    path, expected = archive
    store = open_store(path)
    for key, values in expected.items():
        name, _, array = key.partition(".")
        if name in ("images", "texts"):
            found = np.array(getattr(store, name)()[array].to_pylist())
        elif array in ("tokens", "offsets") and store[name].table == "texts":
            found = getattr(store[name].text_tokens(slice(None)), array)
        else:
            found = store[name].read(array, 0, store[name].rows)
        assert found.dtype == values.dtype, key
        np.testing.assert_array_equal(found, values, err_msg=key)
    assert {key.partition(".")[0] for key in expected} == {"images", "texts", *store.features()}


def test_an_archive_is_sound(archive):
    report = verify_store(archive[0])
    assert report.findings == ()
    assert report.chunks_tested > 0


def test_an_archive_grows_and_shrinks(archive, tmp_path):
    """Everything that later versions do to stores works on old ones."""
    from embedstore.store import compact_store

    path, expected = archive
    ids = expected["images.id"].tolist()
    compact_store(path, tmp_path / "new", drop=ids[:1])
    np.testing.assert_array_equal(
        open_store(tmp_path / "new")["vision"].by_id(ids[1:]), expected["vision.tokens"][1:]
    )


def _check_stranger(path):
    read = _stranger().read_feature
    store = open_store(path)
    for name in store.features():
        feature, found = store[name], read(path, name)
        assert list(found) == list(feature.arrays)
        for array, values in found.items():
            if isinstance(values, list):
                packed = feature.text_tokens(slice(None))
                np.testing.assert_array_equal(np.concatenate(values), packed.tokens)
                assert [len(v) for v in values] == packed.lengths.tolist()
            else:
                np.testing.assert_array_equal(values, feature.read(array, 0, feature.rows))


def test_a_stranger_with_sixty_lines_reads_an_archive(archive):
    lines = Path(__file__).with_name("stranger.py").read_text().splitlines()
    assert len(lines) <= 60
    assert {line.split()[1] for line in lines if line.startswith(("import", "from"))} == {
        "json",
        "pathlib",
        "numpy",
    }
    _check_stranger(archive[0])


def test_a_stranger_reads_what_is_written_today(tmp_path):
    write_random_store(
        tmp_path / "s", images=30, captions=3, seed=5, shard_rows=8, policy="float32", prefix=2
    )
    _check_stranger(tmp_path / "s")


@pytest.mark.parametrize("at", [5, -2, -30])
def test_a_stranger_finds_a_flipped_bit(archive, tmp_path, at):
    shutil.copytree(archive[0], tmp_path / "s")
    path = tmp_path / "s/features/vision/pooled/c/1/0"
    data = bytearray(path.read_bytes())
    data[at] ^= 8
    path.write_bytes(data)
    with pytest.raises(AssertionError, match="is damaged"):
        _stranger().read_feature(tmp_path / "s", "vision")
