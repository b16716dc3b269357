from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from embedstore.encoders import encoder_for_card, load_text_encoder
from embedstore.errors import EncoderError, UnknownNameError, UsageError
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


PROMPTS = {"query": "query: ", "passage": "the beach: "}


@pytest.fixture
def prompted(sentence_folder, tmp_path):
    """A pipeline with prompts, one of them the default, whose pooling leaves the prompt out where asked."""

    def make(*, default=None, include=True):
        def edit(folder, listed):
            path = folder / "config_sentence_transformers.json"
            more = {"prompts": PROMPTS, "default_prompt_name": default}
            path.write_text(json.dumps(json.loads(path.read_text()) | more))
            pooling = folder / listed[1]["path"] / "config.json"
            pooling.write_text(json.dumps(json.loads(pooling.read_text()) | {"include_prompt": include}))

        return changed(sentence_folder, tmp_path, edit)

    return make


@pytest.mark.parametrize("include", [True, False])
def test_a_prompt_is_put_before_every_text(prompted, include, own_home):
    folder = prompted(include=include)
    encoder = load_text_encoder(f"st:{folder}?prompt=passage", device="cpu")
    assert encoder.card.tokenizer.prompt == "the beach: "
    assert encoder.card.pooling.startswith("mean+" if include else "mean-after-prompt+")
    ids, _ = encoder.prepare(SENTENCES)
    batch = encoder.encode(ids)
    pipeline = SentenceTransformer(str(folder), device="cpu")
    texts = list(SENTENCES)
    assert_vectors_agree(batch.pooled, pipeline.encode(texts, prompt_name="passage"))
    tokens = pipeline.encode(texts[:1], prompt_name="passage", output_value="token_embeddings")[0].cpu()
    assert_vectors_agree(batch.tokens[0][: len(ids[0])], tokens)
    found = encoder_for_card(encoder.card, f"st:{folder}", device="cpu")
    assert found.card == encoder.card


def test_the_default_prompt_is_the_librarys(prompted):
    folder = prompted(default="query")
    encoder = load_text_encoder(f"st:{folder}", device="cpu")
    assert encoder.card.tokenizer.prompt == "query: "
    expected = SentenceTransformer(str(folder), device="cpu").encode(list(SENTENCES))
    assert_vectors_agree(encoder.encode(encoder.prepare(SENTENCES)[0]).pooled, expected)


def test_no_prompt_can_be_asked_for(prompted, loaded):
    encoder = load_text_encoder(f"st:{prompted(default='query')}?prompt=", device="cpu")
    assert encoder.card.identity == loaded.card.identity


def test_an_unknown_prompt_names_the_known_ones(prompted):
    with pytest.raises(UnknownNameError, match=r"unknown prompt 'question'(.|\n)*passage, query"):
        load_text_encoder(f"st:{prompted()}?prompt=question", device="cpu")


@pytest.mark.parametrize("mode", ["cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
def test_every_pooling_is_the_librarys(sentence_folder, tmp_path, mode):
    def edit(folder, listed):
        pooling = folder / listed[1]["path"] / "config.json"
        pooling.write_text(json.dumps({"embedding_dimension": 32, "pooling_mode": mode}))

    folder = changed(sentence_folder, tmp_path, edit)
    encoder = load_text_encoder(f"st:{folder}", device="cpu")
    assert encoder.card.pooling == f"{mode}+dense-tanh+normalize"
    expected = SentenceTransformer(str(folder), device="cpu").encode(list(SENTENCES))
    assert_vectors_agree(encoder.encode(encoder.prepare(SENTENCES)[0]).pooled, expected)


def test_a_pipeline_without_pooling_is_refused(sentence_folder, tmp_path):
    def edit(_, listed):
        del listed[1:]

    with pytest.raises(EncoderError, match="hold a Pooling"):
        load_text_encoder(f"st:{changed(sentence_folder, tmp_path, edit)}", device="cpu")


def test_images_are_no_business_of_st(sentence_folder):
    from embedstore.encoders import load_image_encoder

    with pytest.raises(UsageError, match="'st' has no image encoders"):
        load_image_encoder(f"st:{sentence_folder}")
