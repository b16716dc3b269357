"""A fitted head opened again: the same numbers, and what does not belong to it refused."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch

from embedstore.documents import HeadConfig, load_document
from embedstore.errors import HeadError
from embedstore.fit import fit_config, fit_head
from embedstore.model import load_head, refuse_other_card
from embedstore.testing.stores import write_random_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_random_store(tmp_path_factory.mktemp("model") / "store", images=30)


@pytest.fixture
def folder(store, tmp_path):
    chosen = fit_config(image="vision", text="words", width=8, epochs=1, batch_size=10)
    return fit_head(store, chosen, tmp_path / "head", device="cpu").out


def test_a_loaded_head_embeds_rows_in_the_order_given(store, folder):
    head = load_head(folder)
    rows = np.array([5, 1, 29, 1])
    found = head.embed_images(store["vision"], rows, batch=3)
    with torch.inference_mode():
        for row, vector in zip(rows, found, strict=True):
            tokens = torch.from_numpy(store["vision"].gather("tokens", [row]))
            prefix = torch.from_numpy(store["vision"].gather("prefix", [row]))
            wanted = head.module.embed_image(tokens, prefix).numpy()[0]
            np.testing.assert_allclose(vector, wanted, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    texts = head.embed_texts(store["words"], rows)
    assert texts.shape == (4, 8)
    assert not head.module.training
    assert not any(p.requires_grad for p in head.module.parameters())


def test_a_feature_of_another_encoder_is_refused_with_the_fields(store, folder, tmp_path):
    other = write_random_store(tmp_path / "other", images=10, image_width=20, seed=4)
    head = load_head(folder)
    with pytest.raises(HeadError, match=r"(?s)another encoder.*width: fitted 16, here 20"):
        head.embed_images(other["vision"], np.arange(3))
    with pytest.raises(HeadError, match="weights_sha256"):
        head.embed_texts(other["words"], np.arange(3))


def test_library_versions_and_devices_do_not_make_another_encoder(store):
    card = store["vision"].card
    refuse_other_card(card, card.model_copy(update={"versions": {"torch": "9"}}), where="vision")
    refuse_other_card(card, card.model_copy(update={"compute_dtype": "float16"}), where="vision")
    resized = card.processor.model_copy(update={"resize": "exact=1x1"})
    other = card.model_copy(update={"processor": resized})
    with pytest.raises(HeadError, match=r"processor\.resize"):
        refuse_other_card(card, other, where="vision")


def test_a_flipped_bit_in_the_weights_is_found(folder):
    weights = bytearray((folder / "head.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "head.safetensors").write_bytes(weights)
    with pytest.raises(HeadError, match="not those of this head"):
        load_head(folder)


def test_weights_of_other_sizes_are_refused(folder):
    record = load_document(HeadConfig, folder / "head.json")
    wider = record.model_copy(update={"width": 9})
    (folder / "head.json").write_text(wider.to_json())
    with pytest.raises(HeadError, match=r"(?s)do not fit the configuration.*image_cls\.hidden\.weight"):
        load_head(folder)


def test_a_head_of_an_older_release_keeps_its_name(folder):
    """Its record has no field of later releases; the name in reports is a hash of what it has."""
    record = json.loads((folder / "head.json").read_text())
    old = {name: value for name, value in record.items() if name not in {"text_pooling", "options"}}
    (folder / "head.json").write_text(json.dumps(old))
    canonical = json.dumps(old, sort_keys=True, separators=(",", ":"))
    head = load_head(folder)
    assert head.sha256 == hashlib.sha256(canonical.encode()).hexdigest()
    assert (head.config.text_pooling, head.config.options) == ("mean", {})
    pooled = head.config.model_copy(update={"text_pooling": "pooled", "options": {"expansion": 4}})
    assert HeadConfig.from_json(pooled.to_json(), where="here") == pooled


def test_half_a_folder_is_no_head(folder, tmp_path):
    with pytest.raises(HeadError, match="no finished head"):
        load_head(tmp_path / "nowhere")
    (folder / "head.safetensors").unlink()
    with pytest.raises(HeadError, match="cannot read the weights"):
        load_head(folder)
    record = json.loads((folder / "head.json").read_text())
    (folder / "head.json").write_text(json.dumps(record | {"surprise": 1}))
    with pytest.raises(HeadError, match="surprise"):
        load_head(folder)
