"""What other people's Zarr libraries, and a reader written from docs/format.md alone, see in a store."""

from __future__ import annotations

import json
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr

from embedstore.store import open_store, plan_feature
from embedstore.store.coding.coder import Coder
from embedstore.testing.stores import write_feature, write_random_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_random_store(tmp_path_factory.mktemp("foreign") / "store", images=150, captions=3, seed=4)


def by_zarr(store, name, array):
    return zarr.open_array(str(store.path / "features" / name / array), mode="r")[...]


def by_tensorstore(store, name, array):
    tensorstore = pytest.importorskip("tensorstore")
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(store.path / "features" / name / array)},
    }
    return tensorstore.open(spec, read=True).result().read().result()


def by_the_document(store, name, array):
    """docs/format.md, section Arrays, in NumPy and json; checksums left out."""
    folder = Path(store.path) / "features" / name / array
    meta = json.loads((folder / "zarr.json").read_text())
    shape, shard = meta["shape"], meta["chunk_grid"]["configuration"]["chunk_shape"]
    chunk = meta["codecs"][0]["configuration"]["chunk_shape"]
    out = np.full(shape, float(meta["fill_value"]), dtype=meta["data_type"])
    for number in range(-(-shape[0] // shard[0])):
        path = folder.joinpath("c", str(number), *["0"] * (len(shape) - 1))
        data = path.read_bytes()
        chunks = shard[0] // chunk[0]
        index = struct.unpack(f"<{2 * chunks}Q", data[-16 * chunks - 4 : -4])
        for k in range(chunks):
            offset, size = index[2 * k : 2 * k + 2]
            if offset != 2**64 - 1:
                values = np.frombuffer(data[offset : offset + size - 4], out.dtype).reshape(chunk)
                first = number * shard[0] + k * chunk[0]
                out[first : first + chunk[0]] = values[: max(0, shape[0] - first)]
    return out


def by_zarrs(store, name, array):
    """zarr-python with its Rust pipeline."""
    pytest.importorskip("zarrs")
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        return zarr.open_array(str(store.path / "features" / name / array), mode="r")[...]


READERS = [by_zarr, by_zarrs, by_tensorstore, by_the_document]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("array", ["tokens", "prefix", "pooled", "status"])
def test_image_arrays_are_read_the_same(store, read, array):
    feature = store["vision"]
    assert feature.header.units > 1
    np.testing.assert_array_equal(read(store, "vision", array), feature.read(array, 0, feature.rows))


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("policy", ["bfloat16", "fp8", "merge-4+fp8", "cls+mean+bfloat16"])
def test_arrays_of_every_stored_type_are_read_the_same(tmp_path, read, policy):
    store = write_random_store(tmp_path / "store", images=40, captions=1, shard_rows=16)
    source, header = store["vision"], store["vision"].header
    header = plan_feature(name="small", plan=store.plan, card=header.card, policy=policy, shard_rows=16)
    coder = Coder.of(header)
    plain = {a: source.decoded(a, range(40)) for a in ("tokens", "prefix", "pooled")}
    write_feature(store.path, header, coder.encode(plain, rows=np.arange(40)))
    feature = open_store(store.path)["small"]
    for array in feature.arrays:
        np.testing.assert_array_equal(read(store, "small", array), feature.read(array, 0, 40))


@pytest.mark.parametrize("read", READERS)
def test_packed_text_tokens_are_read_the_same(store, read):
    feature = store["words"]
    tokens, lengths = read(store, "words", "tokens"), read(store, "words", "lengths")
    rows, places = feature.header.shard_rows, feature.header.shard_rows * feature.header.max_tokens
    packed = feature.text_tokens(slice(None))
    used = 0
    for row in range(feature.rows):
        unit, inside = divmod(row, rows)
        start = unit * places + int(lengths[row - inside : row].sum())
        ours = packed.tokens[packed.offsets[row] : packed.offsets[row + 1]]
        np.testing.assert_array_equal(tokens[start : start + lengths[row]], ours)
        used += lengths[row]
    assert np.isfinite(tokens).all(axis=1).sum() == used
    assert tokens.shape[0] == feature.header.units * places > used


def test_the_whole_store_is_a_zarr_hierarchy(store):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = zarr.open_group(str(store.path), mode="r")
        assert root.attrs["embedstore"] == {"format_version": 1}
        assert set(root["features"].group_keys()) == {"vision", "words"}
        assert set(root["features/words"].array_keys()) == {"tokens", "lengths", "pooled", "status"}
        assert root["features/vision/tokens"].metadata.dimension_names == ("image", "patch", "width")


def test_what_is_not_there_yet_is_nan_to_others(kit, tmp_path):
    kit.run_whole(tmp_path / "store")
    store = open_store(tmp_path / "store")
    (store.path / "features/vision/pooled/c/0/0").unlink()
    (store.path / "features/vision/status/c/0").unlink()
    assert np.isnan(by_zarr(store, "vision", "pooled")[:4]).all()
    assert (by_zarr(store, "vision", "status")[:4] == 255).all()
