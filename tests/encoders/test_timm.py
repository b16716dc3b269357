from __future__ import annotations

import logging
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

from embedstore.encoders import default_name, encoder_for_card, load_image_encoder, load_text_encoder
from embedstore.errors import EncoderError, MissingExtraError, UnknownNameError, UnreadableImage, UsageError
from embedstore.testing.encoders import ImageEncoderContract, assert_vectors_agree, sample_pictures

REAL = Path(__file__).parents[3] / "shared" / "data" / "vit-tiny-in1k"

# architecture of timm, what makes it small, edge of the pictures -> prefix, registers, grid, final norm
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
SWIN = {"img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2)}
CASES = {
    "vit": ("vit_tiny_patch16_224", VIT, 32, 1, 0, (4, 4), True),
    "vit-registers": ("vit_small_patch14_reg4_dinov2", VIT, 32, 5, 4, (4, 4), True),
    "vit-map-pool": ("test_vit3", {"img_size": 48}, 48, 1, 1, (3, 3), True),
    "eva": ("eva02_tiny_patch14_224", VIT, 32, 1, 0, (4, 4), False),
    "dinov3": ("vit_small_patch16_dinov3", VIT, 32, 5, 4, (4, 4), True),
    "swin": ("swin_tiny_patch4_window7_224", SWIN, 64, 0, 0, (8, 8), True),
    "convnext": ("test_convnext", {}, 64, 0, 0, (2, 2), False),
    "resnet": ("test_resnet", {}, 64, 0, 0, (2, 2), False),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, randomised):
    """A function from a name of `CASES` to a folder that timm saved."""
    saved: dict[str, Path] = {}

    def save(name):
        if name not in saved:
            architecture, arguments, edge, *_ = CASES[name]
            saved[name] = tmp_path_factory.mktemp("timm") / f"tiny-{name}"
            model = randomised(timm.create_model(architecture, num_classes=7, **arguments))
            data = {"input_size": (3, edge, edge)}
            timm.models.save_for_hf(model, saved[name], safe_serialization=True, data_config=data)
        return saved[name]

    return save


def run_directly(folder):
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    transform = create_transform(**resolve_model_data_config(model), is_training=False)

    @torch.inference_mode()
    def run(pictures):
        pixels = torch.stack([transform(picture) for picture in pictures])
        hidden = model.forward_features(pixels)
        if hidden.ndim == 4 and getattr(model, "output_fmt", "NCHW") == "NHWC":
            hidden = hidden.reshape(len(hidden), -1, hidden.shape[-1])
        elif hidden.ndim == 4:
            hidden = hidden.reshape(*hidden.shape[:2], -1).permute(0, 2, 1)
        return hidden.numpy(), model(pixels).numpy()

    return run


@pytest.fixture(scope="module")
def loaded(folder):
    return {name: load_image_encoder(f"timm:{folder(name)}", device="cpu") for name in CASES}


@pytest.mark.parametrize("name", CASES)
class TestTimm(ImageEncoderContract):
    @pytest.fixture
    def encoder(self, name, loaded):
        return loaded[name]

    @pytest.fixture
    def direct(self, name, folder):
        return run_directly(folder(name))

    def test_the_card_reads_the_model(self, name, encoder):
        *_, prefix, registers, grid, normed = CASES[name]
        card = encoder.card
        assert (card.prefix, card.registers, card.grid, card.final_norm) == (prefix, registers, grid, normed)
        assert (card.library, card.model, card.processor.backend) == ("timm", f"tiny-{name}", "timm")
        assert card.pooling.startswith("pre_logits")


def timm_twin(model, *, size, **more):
    """The same weights in timm's ViT: query, key and value stand in one matrix there."""
    config = model.config
    twin = timm.create_model(
        "vit_tiny_patch16_224",
        num_classes=0,
        img_size=size,
        patch_size=config.patch_size,
        embed_dim=config.hidden_size,
        depth=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        mlp_ratio=config.intermediate_size / config.hidden_size,
        pretrained_cfg_overlay={"crop_mode": "squash", "crop_pct": 1.0, **more},
    )
    theirs = model.state_dict()
    ours = {
        "cls_token": theirs["embeddings.cls_token"],
        "pos_embed": theirs["embeddings.position_embeddings"],
        "patch_embed.proj.weight": theirs["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": theirs["embeddings.patch_embeddings.projection.bias"],
        "norm.weight": theirs["layernorm.weight"],
        "norm.bias": theirs["layernorm.bias"],
    }
    names = {
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "attention.o_proj": "attn.proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    for layer in range(config.num_hidden_layers):
        for part in ("weight", "bias"):
            start, block = f"layers.{layer}", f"blocks.{layer}"
            qkv = [theirs[f"{start}.attention.{x}_proj.{part}"] for x in "qkv"]
            ours[f"{block}.attn.qkv.{part}"] = torch.cat(qkv)
            for theirs_name, ours_name in names.items():
                ours[f"{block}.{ours_name}.{part}"] = theirs[f"{start}.{theirs_name}.{part}"]
    twin.load_state_dict(ours)
    return twin


def assert_twins_agree(hf_folder, tmp_path, *, size, pictures):
    model = transformers.ViTModel.from_pretrained(hf_folder, add_pooling_layer=False)
    processor = transformers.AutoImageProcessor.from_pretrained(hf_folder, backend="pil")
    twin = timm_twin(
        model,
        size=size,
        mean=tuple(processor.image_mean),
        std=tuple(processor.image_std),
        interpolation="bicubic",
    )
    timm.models.save_for_hf(twin, tmp_path / "twin", safe_serialization=True)
    one = load_image_encoder(f"hf:{hf_folder}?backend=pil", device="cpu")
    two = load_image_encoder(f"timm:{tmp_path / 'twin'}", device="cpu")
    a = one.encode([one.prepare(picture) for picture in pictures])
    b = two.encode([two.prepare(picture) for picture in pictures])
    for ours, theirs in ((a.tokens, b.tokens), (a.prefix, b.prefix), (a.pooled, b.pooled)):
        assert float((ours - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max())
        assert_vectors_agree(ours, theirs)
    assert (one.card.grid, one.card.width, one.card.prefix) == (two.card.grid, two.card.width, 1)


def test_equal_weights_give_equal_tokens_through_hf_and_timm(tmp_path, randomised):
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        image_size=32,
        patch_size=8,
        layer_norm_eps=1e-6,
    )
    randomised(transformers.ViTModel(config)).save_pretrained(tmp_path / "hf")
    size = {"height": 32, "width": 32}
    transformers.ViTImageProcessor(size=size, resample=3).save_pretrained(tmp_path / "hf")
    assert_twins_agree(tmp_path / "hf", tmp_path, size=32, pictures=sample_pictures())


@pytest.mark.shared
@pytest.mark.skipif(not REAL.is_dir(), reason="the data folder beside the project is absent")
def test_the_real_vit_gives_equal_tokens_through_hf_and_timm(tmp_path):
    assert_twins_agree(REAL, tmp_path, size=224, pictures=sample_pictures())


def test_a_file_of_weights_with_a_classifier(folder, loaded, tmp_path, randomised):
    model = randomised(timm.create_model("test_vit3", num_classes=7))
    for file in ("mine.pth", "mine.safetensors"):
        if file.endswith("pth"):
            torch.save({"state_dict": model.state_dict()}, tmp_path / file)
        else:
            from safetensors.torch import save_file

            save_file(model.state_dict(), tmp_path / file)
        encoder = load_image_encoder(f"timm:test_vit3?checkpoint={tmp_path / file}", device="cpu")
        assert encoder.card.model == file
        pixels = encoder.prepare(sample_pictures()[0])
        expected = model.forward_features(torch.from_numpy(pixels)[None])[:, 1:].detach()
        assert_vectors_agree(encoder.encode([pixels]).tokens, expected)


def test_positions_are_interpolated_as_timm_does(folder):
    encoder = load_image_encoder(f"timm:{folder('vit')}?image_size=48", device="cpu")
    assert (encoder.card.grid, encoder.card.processor.size) == ((6, 6), (48, 48))
    assert encoder.card.processor.resize == "shortest_edge=53"
    assert encoder.card.positions == "interpolated from 4x4"
    pixels = [encoder.prepare(picture) for picture in sample_pictures()]
    model = timm.create_model(
        f"local-dir:{folder('vit')}", pretrained=True, num_classes=0, img_size=48
    ).eval()
    expected = model.forward_features(torch.from_numpy(np.stack(pixels)))[:, 1:].detach()
    assert_vectors_agree(encoder.encode(pixels).tokens, expected)


def test_a_map_grows_with_the_picture(folder):
    encoder = load_image_encoder(f"timm:{folder('convnext')}", device="cpu", image_size=(64, 96))
    assert (encoder.card.grid, encoder.card.processor.resize) == ((2, 3), "fill=67x101")
    assert encoder.card.positions is None
    flat = np.zeros((3, 64, 96), dtype=np.float32)
    assert tuple(encoder.encode([flat]).tokens.shape) == (1, 6, 64)


def test_a_size_that_leaves_out_a_border_is_refused(folder):
    with pytest.raises(UsageError, match=r"multiple of the patch size(.|\n)*45x45 with patches of 8x8"):
        load_image_encoder(f"timm:{folder('vit')}", device="cpu", image_size=45)


def test_a_size_that_the_model_cannot_take_is_refused(tmp_path):
    timm.models.save_for_hf(timm.create_model("xcit_nano_12_p16_224", img_size=32), tmp_path)
    with pytest.raises(UsageError, match=r"one size only(.|\n)*48x48(.|\n)*32x32"):
        load_image_encoder(f"timm:{tmp_path}", device="cpu", image_size=48)


def test_features_that_are_neither_tokens_nor_maps_are_refused(folder, monkeypatch):
    from timm.models.vision_transformer import VisionTransformer

    whole = VisionTransformer.forward_features
    monkeypatch.setattr(VisionTransformer, "forward_features", lambda *a: whole(*a)[:, :-1])
    with pytest.raises(
        EncoderError, match=r"neither tokens nor maps(.|\n)*\(1, 16, 32\)(.|\n)*python:module"
    ):
        load_image_encoder(f"timm:{folder('vit')}", device="cpu")


def test_the_size_is_restored_from_the_card(folder, own_home):
    made = load_image_encoder(f"timm:{folder('vit')}", device="cpu", image_size=48)
    assert encoder_for_card(made.card, f"timm:{folder('vit')}", device="cpu").card == made.card
    assert encoder_for_card(made.card, device="cpu").card == made.card


def test_rotary_positions_are_told(folder):
    encoder = load_image_encoder(f"timm:{folder('dinov3')}?image_size=64", device="cpu")
    assert (encoder.card.grid, encoder.card.positions) == ((8, 8), "rotary")


def test_the_preparation_goes_to_other_processes(loaded):
    sent = pickle.loads(pickle.dumps(loaded["vit"].preparation))  # noqa: S301 - our own bytes
    for picture in sample_pictures():
        assert np.array_equal(sent(picture), loaded["vit"].prepare(picture))


def test_a_line_of_pixels_is_one_unreadable_picture(loaded):
    with pytest.raises(UnreadableImage, match="too thin: 1×60000 pixels"):
        loaded["vit"].prepare(Image.new("RGB", (1, 60_000)))


def test_a_checkpoint_is_remembered_by_its_absolute_path(own_home, tmp_path, monkeypatch, randomised):
    torch.save(randomised(timm.create_model("test_vit3")).state_dict(), tmp_path / "mine.pth")
    monkeypatch.chdir(tmp_path)
    made = load_image_encoder("timm:test_vit3?checkpoint=mine.pth", device="cpu")
    encoder_for_card(made.card, "timm:test_vit3?checkpoint=mine.pth", device="cpu")
    monkeypatch.chdir(tmp_path.parent)
    assert encoder_for_card(made.card, device="cpu").card == made.card


def test_tensors_that_lack_are_refused(tmp_path):
    weights = timm.create_model("test_vit3").state_dict()
    torch.save({k: v for k, v in weights.items() if k != "norm.bias"}, tmp_path / "mine.pth")
    with pytest.raises(EncoderError, match=r"lacks tensors of VisionTransformer(.|\n)*norm\.bias"):
        load_image_encoder(f"timm:test_vit3?checkpoint={tmp_path / 'mine.pth'}", device="cpu")


def test_of_many_tensors_that_lack_a_few_are_named(tmp_path):
    torch.save(
        {f"encoder.{k}": v for k, v in timm.create_model("test_vit3").state_dict().items()},
        tmp_path / "x.pth",
    )
    with pytest.raises(EncoderError, match="lacks tensors of VisionTransformer") as bad:
        load_image_encoder(f"timm:test_vit3?checkpoint={tmp_path / 'x.pth'}", device="cpu")
    assert len(str(bad.value)) < 600


def test_a_card_says_which_gelu_is_computed(tmp_path):
    """Equal weights in two architectures that differ by it alone are two features."""
    cards = []
    for name, act in (("plain", "gelu"), ("quick", "quick_gelu"), ("tanh", "gelu_tanh")):
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", act_layer=act, **VIT)
        timm.models.save_for_hf(
            model,
            tmp_path / name,
            data_config={"input_size": (3, 32, 32)},
            model_args=VIT | {"act_layer": act},
        )
        cards.append(load_image_encoder(f"timm:{tmp_path / name}", device="cpu").card)
    assert len({card.weights_sha256 for card in cards}) == 1
    assert [card.architecture for card in cards] == [
        "VisionTransformer",
        "VisionTransformer+quick-gelu",
        "VisionTransformer+gelu-tanh",
    ]


def test_a_pickle_with_code_is_not_run(tmp_path):
    torch.save({"state_dict": Path(tmp_path)}, tmp_path / "mine.pth")
    with pytest.raises(EncoderError, match=r"mine\.pth: cannot load the model(.|\n)*weights_only"):
        load_image_encoder(f"timm:test_vit3?checkpoint={tmp_path / 'mine.pth'}", device="cpu")


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("timm:vit_tiny_patch16_225", UnknownNameError, "did you mean vit_tiny_patch16_224"),
        ("timm:test_vit3?checkpoint=nowhere.pth", EncoderError, "no such file"),
        ("timm:test_vit3?revision=main", UsageError, "only hub ids have revisions"),
        ("timm:org/model?checkpoint=x", UsageError, "its own weights"),
        ("timm:test_vit3?backend=pil", UsageError, r"unknown option(.|\n)*image_size, dtype, checkpoint"),
    ],
)
def test_what_cannot_be_meant_is_refused(spec, error, words):
    with pytest.raises(error, match=words):
        load_image_encoder(spec, device="cpu")


def test_a_hub_id_takes_its_revision(monkeypatch):
    asked = []

    def offline(source, **_):
        asked.append(source)
        raise OSError("no connection")

    monkeypatch.setattr(timm, "create_model", offline)
    for spec in ("timm:timm/vit_x?revision=abc", "timm:hf-hub:timm/vit_x"):
        with pytest.raises(EncoderError, match=r"timm/vit_x: cannot load the model(.|\n)*hub"):
            load_image_encoder(spec, device="cpu")
    assert asked == ["hf-hub:timm/vit_x@abc", "hf-hub:timm/vit_x"]


def test_texts_are_no_business_of_timm():
    with pytest.raises(UsageError, match="'timm' has no text encoders"):
        load_text_encoder("timm:test_vit3")


def test_without_timm_the_install_line_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'embedstore\[timm\]'"):
        load_image_encoder("timm:test_vit3", device="cpu")


def test_loading_is_silent(folder, capfd, recwarn):
    before = logging.getLogger("timm.models._builder").level
    load_image_encoder(f"timm:{folder('vit')}", device="cpu")
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    assert not recwarn.list
    assert logging.getLogger("timm.models._builder").level == before


def test_the_name_of_a_model_is_its_feature():
    assert default_name("timm:vit_tiny_patch16_224.augreg_in21k") == "vit_tiny_patch16_224.augreg_in21k"


def test_half_precision_is_recorded_and_keeps_the_identity(folder, loaded):
    for name in ("vit", "eva", "swin", "convnext"):
        half = load_image_encoder(f"timm:{folder(name)}?dtype=bfloat16", device="cpu")
        assert half.card.compute_dtype == "bfloat16"
        assert half.card.identity == loaded[name].card.identity
        inputs = [half.prepare(sample_pictures()[0])]
        ours, theirs = half.encode(inputs).tokens.float(), loaded[name].encode(inputs).tokens
        assert torch.nn.functional.cosine_similarity(ours, theirs, dim=-1).min() > 0.98
