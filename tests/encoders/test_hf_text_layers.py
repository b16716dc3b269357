"""Layers, poolings and limits of text models of transformers, against the library run directly."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers

from embedstore.encoders import (
    cards_of,
    encode_all,
    encoder_for_card,
    load_image_pass,
    load_text_encoder,
    load_text_passes,
)
from embedstore.errors import UsageError
from embedstore.testing.encoders import SENTENCES, assert_vectors_agree

KINDS = {
    "bert": transformers.BertModel,
    "clip-text": transformers.CLIPTextModel,
    "deberta-v2": transformers.DebertaV2Model,
    "gemma2": transformers.Gemma2Model,
    "gpt2": transformers.GPT2Model,
    "llama": transformers.LlamaModel,
    "modernbert": transformers.ModernBertModel,
    "mpnet": transformers.MPNetModel,
    "opt": transformers.OPTModel,
    "qwen3": transformers.Qwen3Model,
    "siglip-text": transformers.SiglipTextModel,
}


@pytest.mark.parametrize("name", KINDS)
def test_layers_are_the_hidden_states_of_the_library(name, checkpoint):
    (encoder,) = load_text_passes(f"hf:{checkpoint(name)}?layers=0,-2,-1", device="cpu")
    assert [card.layer for card in cards_of(encoder)] == [0, 1, -1]
    ids, _ = encoder.prepare(SENTENCES)
    batches = encode_all(encoder, ids)
    model = KINDS[name].from_pretrained(checkpoint(name)).eval()
    for row, one in enumerate(ids):
        inputs = torch.from_numpy(one)[None]
        if name == "siglip-text":
            inputs = torch.nn.functional.pad(inputs, (0, 20 - len(one)))
        with torch.no_grad():
            states = model(input_ids=inputs, output_hidden_states=True).hidden_states
        for card, batch in zip(cards_of(encoder)[:-1], batches[:-1], strict=True):
            expected = states[card.layer][0][: len(one)]
            assert_vectors_agree(batch.tokens[row][batch.mask[row]], expected)
            pooled = expected[-1] if name == "clip-text" else expected.mean(0)
            assert_vectors_agree(batch.pooled[row], pooled)
            assert not card.final_norm
    alone = load_text_encoder(f"hf:{checkpoint(name)}", device="cpu")
    assert cards_of(encoder)[-1] == alone.card
    assert batches[-1].pooled.equal(alone.encode(ids).pooled)


@pytest.mark.parametrize("name", ["gpt2", "llama", "clip-text-projected"])
def test_the_last_token_is_the_last_real_one(name, checkpoint, own_home):
    folder = checkpoint(name)
    encoder = load_text_encoder(f"hf:{folder}?pooling=last", device="cpu")
    ids, _ = encoder.prepare(SENTENCES)
    batch = encoder.encode(ids)
    for row, one in enumerate(ids):
        assert_vectors_agree(batch.pooled[row], encoder.encode([one]).tokens[0, -1])
    assert encoder.card.pooling == "last"
    assert encoder_for_card(encoder.card, f"hf:{folder}", device="cpu").card == encoder.card
    layer = load_text_encoder(f"hf:{folder}?pooling=last&layer=1", device="cpu")
    assert_vectors_agree(layer.encode(ids[:1]).pooled[0], layer.encode(ids[:1]).tokens[0, -1])


def test_the_first_token_may_be_the_pooled_one(checkpoint):
    encoder = load_text_encoder(f"hf:{checkpoint('bert')}?pooling=cls", device="cpu")
    batch = encoder.encode(encoder.prepare(SENTENCES)[0])
    assert batch.pooled.equal(batch.tokens[:, 0])


@pytest.mark.parametrize(
    ("name", "pooling", "allowed"), [("bert", "last", "mean, cls"), ("gpt2", "cls", "mean, last")]
)
def test_a_pooling_that_means_nothing_is_refused(checkpoint, name, pooling, allowed):
    with pytest.raises(UsageError, match=rf"no such pooled embedding(.|\n)*allowed: {allowed}\n"):
        load_text_encoder(f"hf:{checkpoint(name)}?pooling={pooling}", device="cpu")


def test_a_limit_each_shares_the_weights(checkpoint):
    short, long = load_text_passes(f"hf:{checkpoint('llama')}?max_length=4,16", device="cpu")
    assert short.model is long.model
    assert [e.card.tokenizer.max_length for e in (short, long)] == [4, 16]
    assert short.card == load_text_encoder(f"hf:{checkpoint('llama')}?max_length=4", device="cpu").card
    assert [len(e.prepare(["a dog runs on the beach " * 9])[0][0]) for e in (short, long)] == [4, 16]
    with pytest.raises(
        UsageError, match=r"maximal length(.|\n)*found: 99\n  allowed: 1 to 30 tokens|2 to 30 tokens"
    ):
        load_text_passes(f"hf:{checkpoint('llama')}?max_length=4,99", device="cpu")


def test_siglip_is_cut_anywhere_and_padded_to_all_its_places(checkpoint):
    encoder = load_text_encoder(f"hf:{checkpoint('siglip-text')}?max_length=6", device="cpu")
    tokenizer = encoder.card.tokenizer
    assert (tokenizer.max_length, tokenizer.padded_to) == (6, 20)
    assert "padded_to" not in load_text_encoder(f"hf:{checkpoint('bert')}").card.tokenizer.model_dump()
    ids, _ = encoder.prepare(["a dog runs on the beach"])
    with torch.no_grad():
        inputs = torch.nn.functional.pad(torch.from_numpy(ids[0])[None], (0, 14))
        expected = KINDS["siglip-text"].from_pretrained(checkpoint("siglip-text")).eval()(input_ids=inputs)
    assert_vectors_agree(encoder.encode(ids).pooled, expected.pooler_output)


def test_a_decoder_of_long_context_takes_512_tokens_unless_asked(checkpoint, tmp_path):
    folder = tmp_path / "long"
    shutil.copytree(checkpoint("qwen2"), folder)
    config = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": 4096}
    (folder / "config.json").write_text(json.dumps(config))
    assert load_text_encoder(f"hf:{folder}", device="cpu").card.tokenizer.max_length == 512
    assert load_text_encoder(f"hf:{folder}?max_length=2048", device="cpu").card.tokenizer.max_length == 2048


def test_a_decoder_keeps_no_keys_and_values(checkpoint):
    encoder = load_text_encoder(f"hf:{checkpoint('llama')}", device="cpu")
    seen = []
    encoder.model.register_forward_hook(lambda _, __, output: seen.append(output.past_key_values))
    encoder.encode(encoder.prepare(["a dog"])[0])
    assert seen == [None]


def test_limits_are_for_texts(checkpoint):
    with pytest.raises(UsageError, match="unknown option 'max_length'"):
        load_image_pass(f"hf:{checkpoint('vit')}?max_length=4,8")


@pytest.mark.parametrize(
    "name",
    ["bert", "clip-text", "deberta-v2", "gemma3", "gpt2", "llama", "modernbert", "qwen3", "siglip-text"],
)
def test_half_precision_runs_and_stays_near(name, checkpoint):
    half, whole = (
        load_text_encoder(f"hf:{checkpoint(name)}?dtype={d}", device="cpu") for d in ("bfloat16", "float32")
    )
    assert (half.card.compute_dtype, half.card.identity) == ("bfloat16", whole.card.identity)
    ids, _ = half.prepare(SENTENCES)
    ours, theirs = half.encode(ids), whole.encode(ids)
    assert torch.nn.functional.cosine_similarity(ours.pooled.float(), theirs.pooled, dim=-1).mean() > 0.98
    real = ours.mask
    near = torch.nn.functional.cosine_similarity(ours.tokens[real].float(), theirs.tokens[real], dim=-1)
    assert near.mean() > 0.98
