from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer

from embedstore.encoders import demo, hf_processor, load_image_encoder, load_text_encoder
from embedstore.errors import MissingExtraError, UnknownNameError
from embedstore.testing.encoders import ImageEncoderContract, TextEncoderContract

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
HAS_MINILM = importlib.util.find_spec(demo.MINILM_PACKAGE) is not None
SCENES = Path(demo.__file__).parent / "data" / "vit-scenes"


def minilm_folder():
    found = importlib.util.find_spec(demo.MINILM_PACKAGE)
    return Path(found.submodule_search_locations[0], "model")


@pytest.fixture(scope="module")
def minilm():
    return load_text_encoder("demo:minilm", device="cpu")


@pytest.mark.skipif(not HAS_MINILM, reason="the extra embedstore[demo] is not installed")
class TestMiniLM(TextEncoderContract):
    @pytest.fixture
    def encoder(self, minilm):
        return minilm

    @pytest.fixture
    def direct(self):
        pipeline = SentenceTransformer(str(minilm_folder()), device="cpu")

        def run(texts):
            tokens = [pipeline.encode(text, output_value="token_embeddings").numpy() for text in texts]
            return tokens, pipeline.encode(texts)

        return run

    def test_the_weights_are_the_pinned_ones(self):
        found = hashlib.sha256((minilm_folder() / "model.safetensors").read_bytes()).hexdigest()
        assert found == MINILM_SHA256

    def test_the_card_says_which_model_it_is(self, encoder):
        card = encoder.card
        assert (card.model, card.width, card.pooled_width) == ("all-MiniLM-L6-v2", 384, 384)
        assert (card.pooling, card.tokenizer.max_length) == ("mean+normalize", 256)

    def test_the_package_is_found_without_being_imported(self, encoder):
        assert encoder.card.model == "all-MiniLM-L6-v2"
        assert demo.MINILM_PACKAGE not in sys.modules


@pytest.fixture(scope="module")
def scenes():
    return load_image_encoder("demo:vit-scenes", device="cpu")


@pytest.mark.skipif(not SCENES.is_dir(), reason="the demo image encoder is not part of this installation")
class TestViTScenes(ImageEncoderContract):
    @pytest.fixture
    def encoder(self, scenes):
        return scenes

    @pytest.fixture
    def direct(self):
        import transformers

        model = transformers.Dinov2Model.from_pretrained(SCENES).eval()
        processor = transformers.AutoImageProcessor.from_pretrained(
            SCENES, backend=hf_processor.DEFAULT_BACKEND
        )

        def run(pictures):
            hidden = model(**processor(images=pictures, return_tensors="pt")).last_hidden_state.detach()
            return hidden.numpy(), hidden[:, 0].numpy()

        return run

    def test_it_fits_the_package(self, encoder):
        assert encoder.card.architecture == "Dinov2Model"
        assert sum(path.stat().st_size for path in SCENES.rglob("*")) < 4_200_000


def test_a_missing_extra_names_the_install_line(monkeypatch):
    monkeypatch.setattr(demo, "MINILM_PACKAGE", "a_package_that_nobody_installs")
    with pytest.raises(MissingExtraError, match=r"pip install 'embedstore\[demo\]'"):
        load_text_encoder("demo:minilm")


@pytest.mark.parametrize("load", [load_text_encoder, load_image_encoder])
def test_an_unknown_demo_names_the_known_one(load):
    with pytest.raises(UnknownNameError, match=r"'minilmm'(.|\n)*demo:(minilm|vit-scenes)"):
        load("demo:minilmm")
