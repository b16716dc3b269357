"""Heads on imported features: which sides read a pooled embedding; never mixed with encoded ones."""

import numpy as np
import pytest

from embedstore.bench import bench_retrieval, bench_zeroshot
from embedstore.documents import FitConfig
from embedstore.encoders.table import encoder_for_card
from embedstore.errors import EncoderError, HeadError
from embedstore.fit import fit_head
from embedstore.model import load_head
from embedstore.store import open_store
from embedstore.stream.batches import ImageReader, TextReader
from embedstore.testing.stores import write_random_store


@pytest.fixture
def store(tmp_path, bring):
    """A random store, with its own pooled numbers imported again as `image` and `text`."""
    made = write_random_store(tmp_path / "s", images=120, captions=2, noise=0.1)
    for name, modality, feature in (("image", "image", "vision"), ("text", "text", "words")):
        table = made.images(["id"]) if modality == "image" else made.texts(["id"])
        (tmp_path / "ids.txt").write_text("\n".join(table["id"].to_pylist()), encoding="utf-8")
        np.save(tmp_path / "a.npy", made[feature].read("pooled", 0, made[feature].rows))
        bring(
            tmp_path / "a.npy", ids=str(tmp_path / "ids.txt"), modality=modality, name=name, store=made.path
        )
    return made


def config(**options):
    return FitConfig(
        **{"width": 16, "epochs": 8, "batch_size": 24, "split": "train", "dropout": 0.0} | options
    )


def test_a_head_on_imported_pictures_and_encoded_words(store, tmp_path):
    chosen = config(image="image", text="words", image_local="identity", image_cls="linear", lr=1e-2)
    fitted = fit_head(store, chosen, tmp_path / "head", device="cpu")
    report = bench_retrieval(store, tmp_path / "head", split="test", device="cpu")
    assert fitted.images == 96
    assert fitted.head.image_card.library == "imported"
    assert report.metrics["text_to_image"]["recall@5"].value > 2 * report.chance["text_to_image"]["recall@5"]


def test_a_head_on_pooled_embeddings_of_both_sides(store, tmp_path):
    sides = {
        "image_local": "identity",
        "text_token": "identity",
        "image_cls": "linear",
        "text_global": "linear",
    }
    fit_head(store, config(image="image", text="text", lr=1e-2, **sides), tmp_path / "head", device="cpu")
    head = load_head(tmp_path / "head")
    rows = np.arange(5)
    module = head.module
    import torch

    pooled = torch.from_numpy(store["text"].read("pooled", 0, 5).astype(np.float32))
    wanted = torch.nn.functional.normalize(module.text_global(pooled), dim=-1).detach().numpy()
    np.testing.assert_allclose(head.embed_texts(store["text"], rows), wanted, atol=1e-6)
    report = bench_retrieval(store, tmp_path / "head", split="test", device="cpu")
    assert report.metrics["text_to_image"]["recall@5"].value > 2 * report.chance["text_to_image"]["recall@5"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"image": "image", "text": "words"},
            r"(?s)image: image_local 'token' needs tokens.*--image-local identity",
        ),
        (
            {"image": "vision", "text": "text", "text_token": "linear"},
            r"(?s)text: text_token 'linear' needs tokens.*--text-token identity",
        ),
        (
            {"image": "image", "text": "words", "image_local": "identity", "image_cls": "identity"},
            "nothing is left",
        ),
    ],
)
def test_sides_without_tokens_are_refused(options, words, store, tmp_path):
    with pytest.raises(HeadError, match=words):
        fit_head(store, config(**options), tmp_path / "head", device="cpu")
    assert not (tmp_path / "head").exists()


def test_readers_of_pooled_embeddings(store):
    images, texts = ImageReader(store["image"]), TextReader(store["text"])
    rows = np.array([7, 3, 90])
    read = images.read(rows, images.buffers(4))
    assert (tuple(read.tokens.shape), read.prefix) == ((3, 0, 16), None)
    np.testing.assert_array_equal(read.pooled.numpy(), store["vision"].gather("pooled", rows))
    words = texts.read(rows)
    np.testing.assert_array_equal(words.tokens.numpy(), store["words"].gather("pooled", rows))
    assert words.offsets.tolist() == [0, 1, 2, 3]


def test_an_imported_feature_is_another_than_the_encoded_one(store, tmp_path):
    fit_head(store, config(image="vision", text="words", epochs=1), tmp_path / "head", device="cpu")
    head = load_head(tmp_path / "head")
    with pytest.raises(HeadError, match=r"(?s)another encoder.*library: fitted 'python', here 'imported'"):
        head.embed_images(store["image"], np.arange(3))


def test_there_is_no_encoder_behind_it(store):
    for name in ("image", "text"):
        with pytest.raises(EncoderError, match=r"no (image|text) encoder that could be run again"):
            encoder_for_card(open_store(store.path)[name].card, "demo:minilm")


def test_class_prompts_cannot_be_encoded(store, tmp_path):
    sides = {"image_local": "identity", "text_token": "identity"}
    fit_head(store, config(image="image", text="text", epochs=1, **sides), tmp_path / "head", device="cpu")
    with pytest.raises(EncoderError, match="an imported feature has no text encoder"):
        bench_zeroshot(store, tmp_path / "head", split="test", device="cpu")
