from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import transformers

from embedstore.encoders import load_text_encoder
from embedstore.encoders.tokens import length_limit, positions
from embedstore.errors import EncoderError, MissingExtraError, UsageError
from embedstore.testing.encoders import LONE_SURROGATE, SENTENCES, TextEncoderContract

# name -> class that runs directly, longest text, pooled width, pooling
CASES = {
    "bert": (transformers.BertModel, 40, 32, "mean"),
    "roberta": (transformers.RobertaModel, 40, 32, "mean"),
    "mpnet": (transformers.MPNetModel, 40, 32, "mean"),
    "clip-text-legacy": (transformers.CLIPTextModel, 20, 32, "eot"),
    "clip-text": (transformers.CLIPTextModel, 20, 32, "eot"),
    "clip-text-projected": (transformers.CLIPTextModelWithProjection, 20, 24, "text_embeds"),
    "clip": (transformers.CLIPModel, 20, 24, "text_embeds"),
    "siglip": (transformers.SiglipTextModel, 20, 24, "last-place"),
    "siglip-text": (transformers.SiglipTextModel, 20, 24, "last-place"),
    "siglip-slow": (transformers.SiglipTextModel, 20, 24, "last-place"),
    "siglip2-text": (transformers.Siglip2TextModel, 20, 24, "last-place"),
    "camembert": (transformers.CamembertModel, 40, 32, "mean"),
    "deberta-v2": (transformers.DebertaV2Model, 42, 32, "mean"),
    "distilbert": (transformers.DistilBertModel, 40, 32, "mean"),
    "electra": (transformers.ElectraModel, 42, 32, "mean"),
    "modernbert": (transformers.ModernBertModel, 42, 32, "mean"),
    "xlm-roberta": (transformers.XLMRobertaModel, 40, 32, "mean"),
    "xlm-roberta-xl": (transformers.XLMRobertaXLModel, 40, 32, "mean"),
    "gemma": (transformers.GemmaModel, 30, 32, "mean"),
    "gemma2": (transformers.Gemma2Model, 30, 32, "mean"),
    "gemma3": (transformers.Gemma3TextModel, 30, 32, "mean"),
    "gpt2": (transformers.GPT2Model, 30, 32, "mean"),
    "gpt-neox": (transformers.GPTNeoXModel, 30, 32, "mean"),
    "llama": (transformers.LlamaModel, 30, 32, "mean"),
    "mistral": (transformers.MistralModel, 30, 32, "mean"),
    "olmo2": (transformers.Olmo2Model, 30, 32, "mean"),
    "opt": (transformers.OPTModel, 30, 32, "mean"),
    "phi": (transformers.PhiModel, 30, 32, "mean"),
    "phi3": (transformers.Phi3Model, 30, 32, "mean"),
    "qwen2": (transformers.Qwen2Model, 30, 32, "mean"),
    "qwen3": (transformers.Qwen3Model, 30, 32, "mean"),
}


def pooled_of(model, out, tokens):
    if isinstance(model, transformers.CLIPTextModelWithProjection):
        return out.text_embeds[0]
    if isinstance(model, transformers.CLIPModel | transformers.CLIPTextModel):
        return out.pooler_output[0]
    return tokens.mean(0)


def run_directly(name, folder):
    """One text at a time, so that no padding exists at all."""
    kind, length, *_ = CASES[name]
    model, tokenizer = kind.from_pretrained(folder).eval(), transformers.AutoTokenizer.from_pretrained(folder)
    forward = model.get_text_features if isinstance(model, transformers.CLIPModel) else model

    def run(texts):
        tokens, pooled = [], []
        for text in texts:
            inputs = tokenizer(text, truncation=True, max_length=length, return_tensors="pt")
            if "Siglip" in kind.__name__:
                # As the library says to use it: padded to its length, and no mask.
                places = tokenizer(text, truncation=True, padding="max_length", max_length=length)
                out = forward(input_ids=torch.tensor([places["input_ids"]]))
                tokens.append(out.last_hidden_state[0, : inputs["input_ids"].shape[1]].detach().numpy())
                pooled.append(out.pooler_output[0].detach().numpy())
                continue
            ids = inputs["input_ids"] if inputs["input_ids"].numel() else torch.zeros((1, 1), dtype=int)
            out = forward(input_ids=ids.long(), attention_mask=torch.ones_like(ids).long())
            hidden = out.last_hidden_state[0].detach()
            tokens.append(hidden.numpy())
            pooled.append(pooled_of(model, out, hidden).detach().numpy())
        return tokens, np.stack(pooled)

    return run


@pytest.fixture(scope="module")
def encoders(checkpoint):
    return {name: load_text_encoder(f"hf:{checkpoint(name)}", device="cpu") for name in CASES}


@pytest.mark.parametrize("name", CASES)
class TestHuggingFaceTexts(TextEncoderContract):
    @pytest.fixture
    def encoder(self, name, encoders):
        return encoders[name]

    @pytest.fixture
    def direct(self, name, checkpoint):
        return run_directly(name, checkpoint(name))

    def test_the_card_reads_the_model(self, name, encoder):
        _, length, pooled, pooling = CASES[name]
        card = encoder.card
        assert (card.tokenizer.max_length, card.pooled_width, card.pooling) == (length, pooled, pooling)
        assert (card.width, card.grid, card.prefix, card.model) == (32, None, 0, f"tiny-{name}")

    def test_prepare_gives_the_ids_of_the_tokenizer(self, name, encoder, checkpoint):
        tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint(name))
        length = encoder.card.tokenizer.max_length
        ids, cut = encoder.prepare(SENTENCES)
        for text, row, was_cut in zip(SENTENCES, ids, cut, strict=True):
            own = tokenizer(text, truncation=True, max_length=length)["input_ids"]
            assert row.tolist() == (own or [tokenizer.bos_token_id])
            assert was_cut == (len(tokenizer(text, truncation=False)["input_ids"]) > length)


def test_a_text_of_exactly_the_limit_is_not_cut(encoders):
    encoder = encoders["bert"]
    ids, cut = encoder.prepare(["dog " * 38, "dog " * 39])
    assert [len(row) for row in ids] == [40, 40]
    assert cut == [False, True]


def test_half_a_surrogate_pair_reads_as_the_replacement_character(encoders):
    ids, _ = encoders["roberta"].prepare([LONE_SURROGATE, LONE_SURROGATE.replace("\ud83d", "\ufffd")])
    assert ids[0].tolist() == ids[1].tolist()


def test_a_pair_of_surrogates_reads_as_its_character(encoders):
    ids, _ = encoders["roberta"].prepare(["smile \ud83d\ude00", "smile \U0001f600"])
    assert ids[0].tolist() == ids[1].tolist()


def test_max_length_is_recorded_and_cuts(checkpoint, encoders):
    encoder = load_text_encoder(f"hf:{checkpoint('bert')}", device="cpu", max_length=8)
    assert encoder.card.tokenizer.max_length == 8
    assert encoder.card.tokenizer.sha256 == encoders["bert"].card.tokenizer.sha256
    assert encoder.card.identity != encoders["bert"].card.identity
    ids, cut = encoder.prepare(["a dog runs on the beach while two red cubes stand"])
    assert (len(ids[0]), cut) == (8, [True])
    assert load_text_encoder(f"hf:{checkpoint('bert')}?max_length=8", device="cpu").card == encoder.card


@pytest.mark.parametrize("length", [2, 41])
def test_a_length_the_model_cannot_take_is_refused(checkpoint, length):
    with pytest.raises(UsageError, match=rf"maximal length(.|\n)*{length}(.|\n)*3 to 40 tokens"):
        load_text_encoder(f"hf:{checkpoint('bert')}", device="cpu", max_length=length)


def test_another_tokenizer_is_another_card(encoders):
    assert encoders["roberta"].card.tokenizer.sha256 == encoders["mpnet"].card.tokenizer.sha256
    assert encoders["roberta"].card.tokenizer.sha256 != encoders["bert"].card.tokenizer.sha256


def test_positions_that_roberta_loses_to_its_padding_are_counted(checkpoint):
    assert positions(transformers.RobertaModel.from_pretrained(checkpoint("roberta"))) == 40
    assert positions(transformers.BertModel.from_pretrained(checkpoint("bert"))) == 40


def test_no_stated_length_is_no_limit(checkpoint):
    model = torch.nn.Module()
    model.config = transformers.PretrainedConfig()
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint("bert"))
    tokenizer.model_max_length = int(1e30)
    assert length_limit(tokenizer, model) is None


def test_an_image_model_is_refused_with_the_known_families(checkpoint):
    with pytest.raises(EncoderError, match=r"not a text model(.|\n)*'vit'(.|\n)*roberta"):
        load_text_encoder(f"hf:{checkpoint('vit')}", device="cpu")


def test_a_tokenizer_that_needs_a_package_names_the_line_that_installs_it(checkpoint, monkeypatch):
    def missing(*_, **__):
        raise ImportError("SiglipTokenizer requires the SentencePiece library")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", missing)
    with pytest.raises(MissingExtraError, match=r"pip install 'embedstore\[sentencepiece\]'"):
        load_text_encoder(f"hf:{checkpoint('siglip-slow')}", device="cpu")


def test_another_model_of_sentencepiece_is_another_card(encoders, checkpoint, tmp_path):
    folder = tmp_path / "upper"
    shutil.copytree(checkpoint("siglip-slow"), folder)
    config = json.loads((folder / "tokenizer_config.json").read_text()) | {"do_lower_case": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    card = load_text_encoder(f"hf:{folder}", device="cpu").card
    assert card.tokenizer.sha256 != encoders["siglip-slow"].card.tokenizer.sha256
    assert load_text_encoder(f"hf:{folder}?max_length=5", device="cpu").card.tokenizer.max_length == 5


def test_a_slow_tokenizer_without_sentencepiece_is_refused(checkpoint, monkeypatch):
    monkeypatch.setattr(
        transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: transformers.ByT5Tokenizer()
    )
    with pytest.raises(EncoderError, match=r"no fast form\n  found: ByT5Tokenizer"):
        load_text_encoder(f"hf:{checkpoint('bert')}", device="cpu")
