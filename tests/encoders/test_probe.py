"""The probe: what tells apart configurations of equal tensors, and not runs of one."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch

from embedstore.documents import PROBE_TOLERANCE, EncoderCard
from embedstore.encoders import encoder_for_card, load_image_encoder, load_text_encoder
from embedstore.encoders.base import ImageBatch, TextBatch
from embedstore.encoders.device import exactly, frozen_forward
from embedstore.encoders.probe import PROBE_TEXTS, probe_pixels, summary
from embedstore.errors import EncoderError

LOAD = {"image": load_image_encoder, "text": load_text_encoder}
# Equal tensors, and what else a configuration may say of them.
OTHERWISE = [
    ("image", "vit", {"hidden_act": "quick_gelu"}),
    ("image", "vit", {"hidden_act": "relu"}),
    ("image", "vit", {"num_attention_heads": 4}),
    ("image", "vit", {"layer_norm_eps": 1e-3}),
    ("image", "dinov2", {"num_attention_heads": 1}),
    ("text", "bert", {"hidden_act": "quick_gelu"}),
    ("text", "bert", {"num_attention_heads": 4}),
    ("text", "bert", {"layer_norm_eps": 1e-3}),
    ("text", "llama", {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}),
    ("text", "llama", {"rms_norm_eps": 1e-4}),
]


def copied(folder, to, config="config.json", **changes):
    """A checkpoint of the same tensors and another configuration."""
    shutil.copytree(folder, to)
    found = json.loads((to / config).read_text())
    assert any(found.get(name) != value for name, value in changes.items())
    (to / config).write_text(json.dumps(found | changes))
    return to


def refused(card, spec):
    with pytest.raises(EncoderError, match=r"not the encoder that made the feature(.|\n)*probe: ") as bad:
        encoder_for_card(card, spec, device="cpu")
    words = str(bad.value)
    assert "equal tensors, another configuration: activation, heads, epsilon" in words
    assert f"give the right one with --{card.modality}-encoder SPEC" in words
    assert "weights_sha256" not in words


@pytest.mark.parametrize(("modality", "name", "changes"), OTHERWISE)
def test_another_configuration_of_equal_tensors_is_refused(
    modality, name, changes, checkpoint, tmp_path, own_home
):
    own = LOAD[modality](f"hf:{checkpoint(name)}", device="cpu").card
    other = copied(checkpoint(name), tmp_path / "other", **changes)
    found = LOAD[modality](f"hf:{other}", device="cpu").card
    assert found.identity == own.identity
    assert found.fingerprint == own.model_copy(update={"model": "other"}).fingerprint
    assert set(own.differences(found)) == {"probe"}
    refused(own, f"hf:{other}")


@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN:UserWarning")
@pytest.mark.parametrize(("modality", "name"), [("image", "vit"), ("text", "bert"), ("text", "llama")])
def test_other_kernels_and_precisions_are_the_same_encoder(modality, name, checkpoint, own_home):
    spec = f"hf:{checkpoint(name)}"
    own = LOAD[modality](spec, device="cpu").card
    assert len(own.probe) == 24
    with torch.backends.mkldnn.flags(enabled=False):
        found = LOAD[modality](spec, device="cpu").card
    assert own.differences(found) == {}
    np.testing.assert_allclose(found.probe, own.probe, rtol=0, atol=PROBE_TOLERANCE / 30)
    # The probe is taken in float32 whatever the encoder runs in.
    half = LOAD[modality](spec, device="cpu", dtype="bfloat16").card
    assert (half.compute_dtype, half.probe) == ("bfloat16", own.probe)
    assert encoder_for_card(half, spec, device="cpu").card.compute_dtype == "float32"


@pytest.mark.parametrize(("modality", "name"), [("image", "vit"), ("text", "bert")])
def test_mixed_precision_around_it_changes_nothing(modality, name, checkpoint, own_home):
    spec = f"hf:{checkpoint(name)}"
    own = LOAD[modality](spec, device="cpu")
    shown = [probe_pixels(own.card.processor.size)] if modality == "image" else own.prepare(PROBE_TEXTS)[0]
    with torch.autocast("cpu", torch.bfloat16):
        found = encoder_for_card(own.card, spec, device="cpu")
        inside = found.encode(shown)
    assert found.card.probe == own.card.probe
    assert inside.tokens.dtype == torch.float32
    torch.testing.assert_close(inside.tokens, own.encode(shown).tokens, rtol=0, atol=0)


def test_a_card_without_a_probe_is_taken_at_its_word(checkpoint, own_home, tmp_path):
    own = load_image_encoder(f"hf:{checkpoint('vit')}", device="cpu").card
    old = EncoderCard.from_json(own.model_copy(update={"probe": None}).to_json(), where="old")
    assert "probe" not in json.loads(old.to_json())
    assert EncoderCard.from_json(own.to_json(), where="new") == own
    assert old.fingerprint == own.fingerprint
    other = copied(checkpoint("vit"), tmp_path / "other", num_attention_heads=4)
    for folder in (checkpoint("vit"), other):
        assert encoder_for_card(old, f"hf:{folder}", device="cpu").card.probe is not None


def test_last_digits_do_not_tell_cards_apart(checkpoint):
    own = load_image_encoder(f"hf:{checkpoint('vit')}", device="cpu").card
    for apart, told in ((PROBE_TOLERANCE / 2, False), (PROBE_TOLERANCE * 2, True)):
        other = own.model_copy(update={"probe": (own.probe[0] + apart, *own.probe[1:])})
        assert bool(own.differences(other)) is told
        assert other.fingerprint == own.fingerprint
    # What another version of the library may sum up otherwise says nothing.
    assert own.differences(own.model_copy(update={"probe": (9.0, 9.0)})) == {}
    # Where something else differs, that is the reason.
    lies = own.model_copy(update={"probe": (9.0,) * 24, "layer": 1})
    assert set(own.differences(lies)) == {"layer"}


def test_limits_and_layers_have_the_probes_that_they_have_alone(checkpoint):
    spec = f"hf:{checkpoint('bert')}"
    long = load_text_encoder(f"{spec}?max_length=40", device="cpu")
    short = load_text_encoder(f"{spec}?max_length=6", device="cpu")
    assert long.limited(6).cards == short.cards
    assert short.limited(40).cards == long.cards
    assert long.card.probe != short.card.probe
    layers = load_image_encoder(f"hf:{checkpoint('vit')}?layer=1", device="cpu").card
    assert layers.probe != load_image_encoder(f"hf:{checkpoint('vit')}", device="cpu").card.probe


def test_sentence_transformers(sentence_folder, tmp_path, own_home):
    own = load_text_encoder(f"st:{sentence_folder}", device="cpu")
    changed = copied(sentence_folder, tmp_path / "other", num_attention_heads=4)
    refused(own.card, f"st:{changed}")
    assert own.limited(6).card == load_text_encoder(f"st:{sentence_folder}?max_length=6", device="cpu").card


def test_timm(tmp_path, randomised, own_home):
    timm = pytest.importorskip("timm")
    arguments = {"img_size": 32, "embed_dim": 24, "num_heads": 2, "depth": 2}
    model = randomised(timm.create_model("vit_tiny_patch16_224", num_classes=0, **arguments))
    for name, more in (("own", {}), ("other", {"act_layer": "silu"}), ("heads", {"num_heads": 4})):
        timm.models.save_for_hf(model, tmp_path / name, model_args={**arguments, **more})
    own = load_image_encoder(f"timm:{tmp_path / 'own'}", device="cpu").card
    refused(own, f"timm:{tmp_path / 'other'}")
    refused(own, f"timm:{tmp_path / 'heads'}")
    half = encoder_for_card(own, f"timm:{tmp_path / 'own'}?dtype=bfloat16", device="cpu").card
    assert (half.compute_dtype, half.probe) == ("bfloat16", own.probe)


def test_the_input_never_changes():
    """Cards of all time are compared by it."""
    digest = hashlib.sha256(probe_pixels((30, 50)).tobytes()).hexdigest()
    assert digest == "c435c88d43d2732b73f23db4b13157ef9f4d3e8854917e5212b8687338ee2481"
    digest = hashlib.sha256("\n".join(PROBE_TEXTS).encode()).hexdigest()
    assert digest == "747fbff787d49cef9976987bc648c94a5063a4dd2bde7629c62b9ec16ae877a6"
    values = torch.arange(24, dtype=torch.float32).reshape(1, 6, 4).sin()
    batch = ImageBatch(tokens=values, prefix=None, pooled=values[:, 0])
    assert summary(batch)[::6] == pytest.approx((-0.040289, 0.041338, -0.780741, -0.16757))


def test_the_summary_is_what_docs_format_says():
    rng = np.random.default_rng(0)
    tokens, pooled = rng.normal(size=(2, 5, 7)), rng.normal(size=(2, 3))
    mask = np.arange(5)[None] < np.array([[3], [5]])

    def signs(name, rows, columns):
        found = hashlib.shake_256(f"embedstore probe {name}".encode()).digest(rows * columns)
        return np.array([1.0 if byte > 127 else -1.0 for byte in found]).reshape(rows, columns)

    real = [tokens[b, k] for b in range(2) for k in range(5) if mask[b, k]]
    length = np.sqrt(np.mean([np.sum(t * t) for t in real]))
    mean = sum(real) / len(real) / length
    places = signs("places", len(real), 1)[:, 0]
    signed = sum(s * t for s, t in zip(places, real, strict=True)) / np.sqrt(len(real)) / length
    whole = [mean @ signs("mean", 7, 8), signed @ signs("signed", 7, 8)]
    whole.append(sum(p / np.linalg.norm(p) @ signs(f"pooled {k}", 3, 8) for k, p in enumerate(pooled)))
    poisoned = np.where(mask[..., None], tokens, np.nan)
    batch = TextBatch(tokens=torch.tensor(poisoned), mask=torch.tensor(mask), pooled=torch.tensor(pooled))
    np.testing.assert_allclose(summary(batch), np.concatenate(whole), atol=2e-6)


@pytest.mark.filterwarnings("error")
def test_what_has_no_length_and_what_is_not_finite():
    nothing = ImageBatch(tokens=torch.zeros(1, 4, 3), prefix=None, pooled=torch.zeros(1, 2))
    assert summary(nothing) == (0.0,) * 24
    none = ImageBatch(tokens=torch.zeros(1, 0, 3), prefix=None, pooled=torch.ones(1, 2))
    assert summary(none)[:16] == (0.0,) * 16
    broken = ImageBatch(tokens=torch.full((1, 4, 3), torch.nan), prefix=None, pooled=torch.ones(1, 2))
    assert summary(broken) is None


@pytest.mark.parametrize("newer", [False, True])
def test_tf32_and_autocast_are_off_inside_alone(newer, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    try:
        if newer:
            matmul.fp32_precision = "tf32"
        else:
            torch.set_float32_matmul_precision("high")
            cudnn.allow_tf32 = True
        before = matmul.fp32_precision, cudnn.conv.fp32_precision
        with exactly(), frozen_forward(torch.device("cpu"), "bfloat16"):
            assert not torch.is_autocast_enabled("cpu")
            assert "tf32" not in (matmul.fp32_precision, cudnn.conv.fp32_precision)
        assert (matmul.fp32_precision, cudnn.conv.fp32_precision) == before
        with frozen_forward(torch.device("cpu"), "bfloat16"):
            assert torch.is_autocast_enabled("cpu")
    finally:
        matmul.fp32_precision = "none"
        torch.set_float32_matmul_precision("highest")
