"""Decoding on the device that trains: equal to NumPy's, and what the head makes of weights."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from embedstore.store import open_store, plan_feature
from embedstore.store.coding.calibration import learn_from
from embedstore.store.coding.coder import Coder
from embedstore.store.geometry import effective_policy
from embedstore.stream.batches import ImageReader, TextReader
from embedstore.stream.decode import TokenDecoder, decoder_of
from embedstore.testing.stores import write_random_store

CPU = torch.device("cpu")
NAMES = (
    "float32",
    "bfloat16",
    "int8",
    "fp8",
    "merge-4",
    "merge-4+int8",
    "pca-6",
    "pca-6+fp8",
    "pq-4",
    "cls+mean",
)
ROWS, TOKENS, WIDTH = 40, 16, 12


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("decode") / "store"
    return write_random_store(path, images=ROWS, image_tokens=TOKENS, image_width=WIDTH, captions=2)


def coder_of(store, feature, name):
    source = store[feature]
    header = plan_feature(name="x", plan=store.plan, card=source.card, policy=name)
    policy = effective_policy(name, source.card)
    if not policy.learns:
        return Coder.of(header)
    rows = range(source.rows)
    sample = {"pooled": source.decoded("pooled", rows)}
    if feature == "words":
        sample["tokens"] = source.decoded_text(slice(None)).tokens
    else:
        sample |= {name: source.decoded(name, rows) for name in ("tokens", "prefix")}
    return Coder.of(header, learn_from(policy, [sample], grid=(4, 4)))


@pytest.mark.parametrize("name", NAMES)
def test_torch_decodes_what_numpy_decodes(plain, name):
    coder, source = coder_of(plain, "vision", name), plain["vision"]
    arrays = {a: source.decoded(a, range(ROWS)) for a in ("tokens", "prefix", "pooled")}
    made = coder.encode(arrays, rows=np.arange(ROWS))
    decoder = TokenDecoder(coder)
    for array, scales in (("tokens", "scales"), ("prefix", "prefix_scales"), ("pooled", "pooled_scales")):
        beside = made.get(scales)
        wanted = coder.decode(array, made[array], beside)
        found = decoder(
            array, torch.from_numpy(made[array]), None if beside is None else torch.from_numpy(beside)
        )
        np.testing.assert_allclose(found.float().numpy(), wanted, rtol=1e-6, atol=1e-6)
        if not coder.policy.pca:
            np.testing.assert_array_equal(found.float().numpy(), wanted)


def test_a_decoder_travels_to_workers(plain):
    coder = coder_of(plain, "vision", "int8")
    again = pickle.loads(pickle.dumps(TokenDecoder(coder)))  # noqa: S301 - our own bytes
    codes, scales = torch.ones(2, TOKENS, WIDTH, dtype=torch.int8), torch.ones(2, TOKENS)
    assert torch.equal(again("tokens", codes, scales), TokenDecoder(coder)("tokens", codes, scales))


def stored(store, tmp_path, feature, name):
    """The store with one more feature, "small"; made by hand, since this layer knows no verb."""
    import shutil

    from safetensors.numpy import save

    from embedstore.store import FeatureWriter

    path = tmp_path / "store"
    shutil.copytree(store.path, path)
    source, coder = store[feature], coder_of(store, feature, name)
    digest = None
    if coder.learnt:
        import hashlib

        data = save(dict(coder.learnt))
        digest = hashlib.sha256(data).hexdigest()
        (path / "features" / "small").mkdir()
        (path / "features" / "small" / "calibration.safetensors").write_bytes(data)
    header = plan_feature(
        name="small", plan=store.plan, card=source.card, policy=name, calibration_sha256=digest
    )
    writer = FeatureWriter.open(path, header)
    for unit in writer.missing_units():
        rows = np.arange(header.unit_rows(unit).start, header.unit_rows(unit).stop)
        if feature == "words":
            packed = source.decoded_text(rows)
            arrays = {"tokens": packed.tokens, "lengths": packed.lengths.astype(np.int32)}
        else:
            arrays = {a: source.decoded(a, rows) for a in ("tokens", "prefix")}
        arrays["pooled"] = source.decoded("pooled", rows)
        writer.write_unit(unit, coder.encode(arrays, rows=rows))
    writer.finish()
    return open_store(path)["small"]


@pytest.mark.parametrize("name", ["float16", "bfloat16", "int8", "fp8", "merge-4+int8", "pca-6", "pq-4"])
def test_a_batch_of_pictures_is_decoded_where_it_goes(plain, tmp_path, name):
    feature = stored(plain, tmp_path, "vision", name)
    reader, rows = ImageReader(feature), np.array([7, 3, 3, 39])
    batch = reader.read(rows, reader.buffers(6))
    raw = feature.gather("tokens", rows)
    np.testing.assert_array_equal(batch.tokens.numpy(), raw)
    moved = batch.to(CPU)
    assert moved.decoder is None
    assert moved.scales is moved.prefix_scales is None
    np.testing.assert_allclose(moved.tokens.float().numpy(), feature.decoded("tokens", rows), atol=1e-6)
    np.testing.assert_allclose(moved.prefix.float().numpy(), feature.decoded("prefix", rows), atol=1e-6)
    assert (moved.weights is not None) == ("merge" in name)
    if moved.weights is not None:
        np.testing.assert_array_equal(moved.weights.numpy(), feature.gather("weights", rows))
    again = moved.to(CPU)
    assert torch.equal(again.tokens, moved.tokens)


@pytest.mark.parametrize("name", ["bfloat16", "int8", "fp8"])
def test_a_batch_of_texts_is_decoded_where_it_goes(plain, tmp_path, name):
    feature = stored(plain, tmp_path, "words", name)
    rows = np.array([5, 3, 79, 0, 3])
    reader, wanted = TextReader(feature), feature.decoded_text(rows)
    offsets = reader.offsets(rows)
    buffer = reader.buffers(int(offsets[-1]))
    for task in reader.tasks(rows, offsets, buffer):
        task()
    for batch in (reader.read(rows), reader.view(rows, offsets, buffer)):
        moved = batch.to(CPU)
        np.testing.assert_allclose(moved.tokens.float().numpy(), wanted.tokens, atol=1e-6)
        np.testing.assert_array_equal(moved.offsets.numpy(), wanted.offsets)
    part = reader.view(rows[1:3], offsets[1:4], buffer).to(CPU)
    np.testing.assert_allclose(
        part.tokens.float().numpy(), wanted.tokens[wanted.offsets[1] : wanted.offsets[3]], atol=1e-6
    )


def test_plain_floats_need_no_decoder(plain, tmp_path):
    assert decoder_of(plain["vision"]) is None
    assert decoder_of(stored(plain, tmp_path, "vision", "merge-4")) is None
