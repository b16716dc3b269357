"""Layers, poolings and sizes of image models of transformers, against the library run directly."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
import transformers

from embedstore.encoders import (
    cards_of,
    encode_all,
    encoder_for_card,
    encoder_for_cards,
    load_image_encoder,
    same_pass,
)
from embedstore.encoders import load_image_pass as load
from embedstore.encoders.base import ManyImages
from embedstore.errors import EncoderError, UsageError
from embedstore.testing.encoders import ImageEncoderContract, assert_vectors_agree, sample_pictures

KINDS = {
    "beit": transformers.BeitModel,
    "clip-vision": transformers.CLIPVisionModel,
    "convnext": transformers.ConvNextModel,
    "deit": transformers.DeiTModel,
    "dinov2": transformers.Dinov2Model,
    "dinov2-registers": transformers.Dinov2WithRegistersModel,
    "dinov3": transformers.DINOv3ViTModel,
    "dinov3-convnext": transformers.DINOv3ConvNextModel,
    "siglip-vision": transformers.SiglipVisionModel,
    "vit": transformers.ViTModel,
}


@pytest.mark.parametrize("name", KINDS)
def test_layers_are_the_hidden_states_of_the_library(name, checkpoint):
    last = 4 if "convnext" in name else 2
    encoder = load(
        f"hf:{checkpoint(name)}?layers=1,{last - 1},-1"
        if last > 2
        else f"hf:{checkpoint(name)}?layers=0,1,-1"
    )
    assert isinstance(encoder, ManyImages)
    numbers = [card.layer for card in cards_of(encoder)]
    pixels = [encoder.prepare(picture) for picture in sample_pictures()]
    batches = encode_all(encoder, pixels)
    model = KINDS[name].from_pretrained(checkpoint(name)).eval()
    with torch.no_grad():
        states = model(torch.from_numpy(np.stack(pixels)), output_hidden_states=True).hidden_states
    assert len(states) == last + 1
    for card, batch in zip(cards_of(encoder)[:-1], batches[:-1], strict=True):
        expected = states[card.layer]
        is_map = expected.ndim == 4
        expected = expected.flatten(2).transpose(1, 2) if is_map else expected
        assert (card.grid[0] * card.grid[1], card.width) == tuple(batch.tokens.shape[1:])
        assert not card.final_norm
        assert_vectors_agree(batch.tokens, expected[:, card.prefix :])
        if card.prefix:
            assert_vectors_agree(batch.prefix, expected[:, : card.prefix])
        pooled = expected[:, 0] if card.prefix else expected.mean(1)
        assert card.pooling == ("cls" if card.prefix else "mean")
        assert_vectors_agree(batch.pooled, pooled)
    alone = load_image_encoder(f"hf:{checkpoint(name)}")
    assert (numbers[-1], cards_of(encoder)[-1]) == (-1, alone.card)
    assert batches[-1].tokens.equal(alone.encode(pixels).tokens)
    assert batches[-1].pooled.equal(alone.encode(pixels).pooled)


def test_a_pass_ends_where_the_last_wanted_layer_ends(checkpoint):
    encoder = load_image_encoder(f"hf:{checkpoint('dinov2')}?layer=-2")
    assert encoder.card.layer == 1
    ran = []
    encoder.model.encoder.layer[1].register_forward_pre_hook(lambda *_: ran.append(1))
    encoder.encode([encoder.prepare(sample_pictures()[0])])
    assert ran == []


def test_layers_counted_from_both_ends_are_the_same(checkpoint):
    cards = [load_image_encoder(f"hf:{checkpoint('dinov2')}?layer={k}").card for k in (1, -2, 2, -1)]
    assert cards[0] == cards[1]
    assert cards[2] == cards[3] == load_image_encoder(f"hf:{checkpoint('dinov2')}").card


def test_stages_of_a_convnext_have_grids_of_their_own(checkpoint):
    cards = cards_of(load(f"hf:{checkpoint('convnext')}?layers=1,2,3,4"))
    assert [(c.grid, c.width) for c in cards] == [((16, 16), 8), ((8, 8), 12), ((4, 4), 16), ((2, 2), 32)]
    assert len({c.weights_sha256 for c in cards}) == 1


def test_one_feature_is_wanted_where_one_encoder_is(checkpoint):
    with pytest.raises(UsageError, match=r"stands for several\n  found: layers=0,1"):
        load_image_encoder(f"hf:{checkpoint('dinov2')}?layers=0,1")


NORMS = {"dinov2": "layernorm", "dinov3": "norm", "vit": "layernorm", "siglip-vision": "post_layernorm"}


@pytest.mark.parametrize("name", NORMS)
def test_layers_may_pass_the_final_norm(name, checkpoint, own_home):
    folder = checkpoint(name)
    raw, normed = (load(f"hf:{folder}?layers=1,-1&norm={norm}") for norm in ("false", "true"))
    assert [card.final_norm for card in cards_of(normed)] == [True, True]
    assert cards_of(raw)[1] == cards_of(normed)[1]
    pixels = [raw.prepare(picture) for picture in sample_pictures()]
    norm = getattr(normed.model, NORMS[name])
    ours, theirs = encode_all(normed, pixels), encode_all(raw, pixels)
    assert_vectors_agree(ours[0].tokens, norm(theirs[0].tokens).detach())
    assert ours[1].tokens.equal(theirs[1].tokens)
    assert cards_of(encoder_for_cards(cards_of(normed), f"hf:{folder}")) == cards_of(normed)
    assert same_pass(*cards_of(normed))
    one, other = (
        load_image_encoder(f"hf:{folder}?layer={k}&norm={n}").card for k, n in ((0, "true"), (1, "false"))
    )
    assert not same_pass(one, other)


def test_a_norm_that_is_not_there_or_not_meant_is_refused(checkpoint):
    with pytest.raises(UsageError, match=r"no final norm for tokens\n  found: ConvNextModel"):
        load_image_encoder(f"hf:{checkpoint('convnext')}?layer=2&norm=true")
    with pytest.raises(UsageError, match="norm is true or false"):
        load_image_encoder(f"hf:{checkpoint('vit')}?norm=1")


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_pooling_may_be_chosen(checkpoint, pooling, own_home):
    folder = checkpoint("clip-vision-projected")
    encoder = load_image_encoder(f"hf:{folder}?pooling={pooling}")
    batch = encoder.encode([encoder.prepare(picture) for picture in sample_pictures()])
    assert encoder.card.pooling == pooling
    assert_vectors_agree(batch.pooled, batch.prefix[:, 0] if pooling == "cls" else batch.tokens.mean(1))
    assert encoder_for_card(encoder.card, f"hf:{folder}").card == encoder.card


def test_a_pooling_that_the_model_has_not_is_refused(checkpoint):
    with pytest.raises(UsageError, match=r"no such pooled embedding(.|\n)*allowed: mean\n(.|\n)*attention"):
        load_image_encoder(f"hf:{checkpoint('siglip-vision')}?pooling=cls")


def test_cards_find_their_layers_again(checkpoint, own_home):
    folder = checkpoint("convnext")
    cards = cards_of(load(f"hf:{folder}?layers=2,-1,3"))
    assert cards_of(encoder_for_cards(cards, f"hf:{folder}")) == cards
    assert encoder_for_card(cards[2]).card == cards[2]
    assert encoder_for_card(cards[0], f"hf:{folder}?layers=1,4").card == cards[0]
    with pytest.raises(EncoderError, match=r"not the encoder(.|\n)*layer: stored 2, now 1"):
        encoder_for_card(cards[0], f"hf:{folder}?layer=1")


SIZES = {
    "beit-cls": "interpolated from 4x4",
    "clip-vision": "interpolated from 4x4",
    "convnext": None,
    "deit": "interpolated from 4x4",
    "dinov2": "interpolated from 4x4",
    "dinov3": "rotary",
    "dinov3-convnext": None,
    "siglip-vision": "interpolated from 4x4",
    "siglip2-vision": "interpolated from 3x3",
}


@pytest.mark.parametrize("name", SIZES)
def test_another_size_is_run_as_the_library_does_and_recorded(name, checkpoint):
    side = 96 if "convnext" in name else 42
    encoder = load_image_encoder(f"hf:{checkpoint(name)}?image_size={side}")
    card = encoder.card
    assert (card.processor.size, card.positions) == ((side, side), SIZES[name])
    assert card.grid == ((3, 3) if "convnext" in name else (6, 6))
    if name == "siglip2-vision":
        return
    pixels = [encoder.prepare(picture) for picture in sample_pictures()]
    kind = KINDS.get(name, transformers.BeitModel)
    options = {"interpolate_pos_encoding": True} if name in ("clip-vision", "deit", "siglip-vision") else {}
    with torch.no_grad():
        model = kind.from_pretrained(checkpoint(name)).eval()
        hidden = model(torch.from_numpy(np.stack(pixels)), **options).last_hidden_state
        if name == "clip-vision":
            hidden = model.post_layernorm(hidden)
    hidden = hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden
    assert_vectors_agree(encoder.encode(pixels).tokens, hidden[:, -card.grid[0] * card.grid[1] :])


def test_a_spec_may_name_height_and_width(checkpoint):
    card = load_image_encoder(f"hf:{checkpoint('dinov3')}?image_size=28x56").card
    assert (card.grid, card.processor.resize) == ((4, 8), "exact=28x56")
    with pytest.raises(UsageError, match="square pictures only"):
        load_image_encoder(f"hf:{checkpoint('convnext')}?image_size=64x96")


@pytest.fixture(scope="module")
def passes(checkpoint):
    return {
        name: load(f"hf:{checkpoint(name)}?layers=1,-1") for name in ("dinov3", "siglip2-vision", "convnext")
    }


@pytest.mark.parametrize("name", ["dinov3", "siglip2-vision", "convnext"])
class TestSeveralLayers(ImageEncoderContract):
    @pytest.fixture
    def encoder(self, name, passes):
        return passes[name]

    @pytest.fixture
    def direct(self, name, checkpoint):
        """The first of the layers alone, as it is loaded for itself."""
        alone = load_image_encoder(f"hf:{checkpoint(name)}?layer=1")

        def run(pictures):
            batch = alone.encode([alone.prepare(picture) for picture in pictures])
            parts = [batch.tokens] if batch.prefix is None else [batch.prefix, batch.tokens]
            return torch.cat(parts, 1).numpy(), batch.pooled.numpy()

        return run


def test_the_card_of_the_own_size_says_nothing_of_positions(checkpoint):
    card = load_image_encoder(f"hf:{checkpoint('dinov2')}").card
    assert "positions" not in card.model_dump(mode="json")
    other = load_image_encoder(f"hf:{checkpoint('dinov2')}?image_size=42").card
    assert "positions" in other.model_dump(mode="json")
    assert "positions" not in other.identity


def test_siglip2_takes_the_square_that_its_patches_allow(checkpoint):
    card = load_image_encoder(f"hf:{checkpoint('siglip2-vision')}").card
    assert (card.grid, card.processor.resize) == ((4, 4), "exact=28x28")
    assert card.processor.class_name == "Siglip2ImageProcessor"
    pil = load_image_encoder(f"hf:{checkpoint('siglip2-vision')}?backend=pil").card
    assert (pil.processor.backend, pil.grid) == ("pil", (4, 4))


@pytest.mark.parametrize(
    ("side", "resize", "crop"), [(320, "shortest_edge=365", "center=320x320"), (384, "exact=384x384", None)]
)
def test_a_convnext_processor_crops_below_384_and_warps_from_there(checkpoint, side, resize, crop):
    encoder = load_image_encoder(f"hf:{checkpoint('convnext')}?image_size={side}")
    card = encoder.card.processor
    assert (card.size, card.resize, card.crop) == ((side, side), resize, crop)
    processor = transformers.ConvNextImageProcessor(size={"shortest_edge": side}, crop_pct=0.875)
    for picture in sample_pictures():
        expected = processor(images=picture, return_tensors="np")["pixel_values"][0]
        assert np.array_equal(encoder.prepare(picture), expected)


@pytest.mark.parametrize(
    "name", ["beit", "convnextv2", "deit", "dinov3", "dinov3-convnext", "siglip-vision", "siglip2-vision"]
)
def test_half_precision_runs_and_stays_near(name, checkpoint):
    half, whole = (load_image_encoder(f"hf:{checkpoint(name)}?dtype={d}") for d in ("bfloat16", "float32"))
    assert (half.card.compute_dtype, half.card.identity) == ("bfloat16", whole.card.identity)
    pixels = [half.prepare(picture) for picture in sample_pictures()]
    for ours, theirs in zip(encode_all(half, pixels), encode_all(whole, pixels), strict=True):
        for field in ("tokens", "pooled"):
            a, b = getattr(ours, field).float(), getattr(theirs, field)
            assert torch.nn.functional.cosine_similarity(a, b, dim=-1).mean() > 0.98


@pytest.mark.parametrize("name", ["convnext", "dinov3", "siglip2-vision"])
def test_a_preparation_that_was_sent_gives_the_same_pixels(name, checkpoint):
    encoder = load_image_encoder(f"hf:{checkpoint(name)}")
    sent = pickle.loads(pickle.dumps(encoder.preparation))  # noqa: S301 - our own bytes
    assert (sent.card, sent.own_size) == (encoder.preparation.card, encoder.preparation.own_size)
    for picture in sample_pictures():
        assert np.array_equal(sent(picture), encoder.prepare(picture))
