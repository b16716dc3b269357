from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from embedstore.encoders import load_text_encoder
from embedstore.errors import EncoderError, UsageError
from embedstore.testing.encoders import SENTENCES, TextEncoderContract, assert_vectors_agree


def run_directly(folder):
    pipeline = SentenceTransformer(str(folder), device="cpu")

    def run(texts):
        tokens = [pipeline.encode(text, output_value="token_embeddings").cpu().numpy() for text in texts]
        return tokens, pipeline.encode(texts, batch_size=2)

    return run


@pytest.fixture(scope="module")
def loaded(sentence_folder):
    return load_text_encoder(f"st:{sentence_folder}", device="cpu")


class TestSentenceTransformers(TextEncoderContract):
    @pytest.fixture
    def encoder(self, loaded):
        return loaded

    @pytest.fixture
    def direct(self, sentence_folder):
        return run_directly(sentence_folder)

    def test_the_card_reads_the_pipeline(self, encoder):
        card = encoder.card
        assert (card.library, card.architecture, card.model) == (
            "sentence-transformers",
            "BertModel",
            "tiny-sentences",
        )
        assert (card.width, card.pooled_width, card.pooling) == (32, 16, "mean+dense-tanh+normalize")
        assert card.tokenizer.max_length == 24

    def test_pooled_is_normalised_by_its_own_module(self, encoder):
        pooled = encoder.encode(encoder.prepare(SENTENCES)[0]).pooled.numpy()
        assert np.linalg.norm(pooled, axis=1) == pytest.approx(1.0, abs=1e-5)


def test_a_plain_transformer_gets_the_librarys_mean_pooling(checkpoint):
    encoder = load_text_encoder(f"st:{checkpoint('bert')}", device="cpu")
    assert encoder.card.pooling == "mean"
    direct = SentenceTransformer(str(checkpoint("bert")), device="cpu").encode(list(SENTENCES))
    assert_vectors_agree(encoder.encode(encoder.prepare(SENTENCES)[0]).pooled, direct)


def test_weights_that_no_module_uses_are_not_hashed(checkpoint, tmp_path):
    """Without the pooler's tensors the library draws random ones at each load; they are never run."""
    folder = tmp_path / "tiny-bert"
    shutil.copytree(checkpoint("bert"), folder)
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "pooler" not in name}
    assert len(kept) < len(tensors)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    whole = load_text_encoder(f"st:{checkpoint('bert')}", device="cpu")
    assert load_text_encoder(f"st:{folder}", device="cpu").card == whole.card


def test_loading_is_silent(sentence_folder, capfd, recwarn):
    load_text_encoder(f"st:{sentence_folder}", device="cpu")
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    assert not recwarn.list


def changed(folder, tmp_path, edit):
    copy = tmp_path / "changed"
    shutil.copytree(folder, copy)
    listed = json.loads((copy / "modules.json").read_text())
    edit(copy, listed)
    (copy / "modules.json").write_text(json.dumps(listed))
    return copy


@pytest.mark.parametrize("name", ["mine.Evil", "sentence_transformers.models.WordWeights", "os.system"])
def test_a_module_that_is_not_allowed_is_refused_before_it_is_imported(sentence_folder, tmp_path, name):
    def edit(folder, listed):
        listed[1]["type"] = name
        (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")

    folder = changed(sentence_folder, tmp_path, edit)
    with pytest.raises(EncoderError, match=rf"allow-list(.|\n)*{name}(.|\n)*Transformer, Pooling"):
        load_text_encoder(f"st:{folder}", device="cpu")
    assert not (tmp_path / "ran").exists()


def test_an_activation_that_is_not_allowed_is_refused(sentence_folder, tmp_path):
    def edit(folder, listed):
        path = folder / listed[2]["path"] / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"activation_function": "os.getcwd"}))

    folder = changed(sentence_folder, tmp_path, edit)
    with pytest.raises(EncoderError, match=r"activation(.|\n)*os\.getcwd"):
        load_text_encoder(f"st:{folder}", device="cpu")


def test_a_default_prompt_is_refused(sentence_folder, tmp_path):
    def edit(folder, _):
        path = folder / "config_sentence_transformers.json"
        more = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
        path.write_text(json.dumps(json.loads(path.read_text()) | more))

    folder = changed(sentence_folder, tmp_path, edit)
    with pytest.raises(EncoderError, match=r"prompt before every text(.|\n)*query: "):
        load_text_encoder(f"st:{folder}", device="cpu")


def test_a_pipeline_without_pooling_is_refused(sentence_folder, tmp_path):
    def edit(_, listed):
        del listed[1:]

    with pytest.raises(EncoderError, match="hold a Pooling"):
        load_text_encoder(f"st:{changed(sentence_folder, tmp_path, edit)}", device="cpu")


def test_images_are_no_business_of_st(sentence_folder):
    from embedstore.encoders import load_image_encoder

    with pytest.raises(UsageError, match="'st' has no image encoders"):
        load_image_encoder(f"st:{sentence_folder}")
