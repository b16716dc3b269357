from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torchvision.transforms.v2.functional import pil_to_tensor
from transformers.image_utils import SizeDict

from embedstore.encoders import load_image_encoder
from embedstore.encoders.cards import weights_sha256
from embedstore.errors import EncoderError, UsageError
from embedstore.testing.encoders import ImageEncoderContract, assert_vectors_agree, sample_pictures

REAL = Path(__file__).parents[3] / "shared" / "data" / "vit-tiny-in1k"


def load_direct(kind, folder):
    model = kind.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="torchvision")
    return model, processor


def run_dino(kind, folder):
    model, processor = load_direct(kind, folder)

    def run(pictures):
        hidden = model(**processor(images=pictures, return_tensors="pt")).last_hidden_state
        return hidden.detach().numpy(), hidden[:, 0].detach().numpy()

    return run


def run_classifier(_, folder):
    model, processor = load_direct(transformers.ViTForImageClassification, folder)

    def run(pictures):
        hidden = model.vit(**processor(images=pictures, return_tensors="pt")).last_hidden_state
        return hidden.detach().numpy(), hidden[:, 0].detach().numpy()

    return run


def run_clip_vision(kind, folder):
    model, processor = load_direct(kind, folder)

    def run(pictures):
        out = model(**processor(images=pictures, return_tensors="pt"))
        tower = getattr(model, "vision_model", model)
        pooled = out.image_embeds if hasattr(out, "image_embeds") else out.pooler_output
        return tower.post_layernorm(out.last_hidden_state).detach().numpy(), pooled.detach().numpy()

    return run


def run_clip(kind, folder):
    model, processor = load_direct(kind, folder)

    def run(pictures):
        pixels = processor(images=pictures, return_tensors="pt")["pixel_values"]
        out = model.get_image_features(pixels)
        hidden = model.vision_model.post_layernorm(out.last_hidden_state)
        return hidden.detach().numpy(), out.pooler_output.detach().numpy()

    return run


def run_model(kind, folder, *, skip=0):
    """Hidden states and the library's own pooled output; a feature map is read row by row."""
    model, processor = load_direct(kind, folder)

    # BEiT keeps tensors that it has made in the encoder's inference mode, which autograd would refuse.
    @torch.no_grad()
    def run(pictures):
        out = model(**processor(images=pictures, return_tensors="pt"))
        hidden = out.last_hidden_state
        hidden = hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden[:, skip:]
        pooled = hidden.mean(1) if out.pooler_output is None else out.pooler_output
        return hidden.detach().numpy(), pooled.detach().numpy()

    return run


def run_without_cls(kind, folder):
    """The DINOv3 ConvNeXt puts its pooled embedding before the map."""
    return run_model(kind, folder, skip=1)


def run_naflex(kind, folder):
    """What the library makes of a square picture of the size that its patches fill."""
    model, processor = load_direct(kind, folder)

    def run(pictures):
        squares = [processor.resize(pil_to_tensor(p), SizeDict(height=28, width=28), 2) for p in pictures]
        inputs = processor(images=squares, return_tensors="pt", max_num_patches=16)
        assert inputs["spatial_shapes"].tolist() == [[4, 4]] * len(pictures)
        out = model(**inputs)
        return out.last_hidden_state.detach().numpy(), out.pooler_output.detach().numpy()

    return run


# name -> class that runs directly, how, prefix, registers, pooled width, pooling
CASES = {
    "dinov2": (transformers.Dinov2Model, run_dino, 1, 0, 32, "cls"),
    "dinov2-registers": (transformers.Dinov2WithRegistersModel, run_dino, 4, 3, 32, "cls"),
    "vit": (transformers.ViTModel, run_dino, 1, 0, 32, "cls"),
    "vit-classifier": (None, run_classifier, 1, 0, 32, "cls"),
    "clip-vision": (transformers.CLIPVisionModel, run_clip_vision, 1, 0, 32, "cls"),
    "clip-vision-projected": (
        transformers.CLIPVisionModelWithProjection,
        run_clip_vision,
        1,
        0,
        24,
        "image_embeds",
    ),
    "clip": (transformers.CLIPModel, run_clip, 1, 0, 24, "image_embeds"),
    "beit": (transformers.BeitModel, run_model, 1, 0, 32, "mean+norm"),
    "beit-cls": (transformers.BeitModel, run_model, 1, 0, 32, "cls"),
    "convnext": (transformers.ConvNextModel, run_model, 0, 0, 32, "mean+norm"),
    "convnextv2": (transformers.ConvNextV2Model, run_model, 0, 0, 32, "mean+norm"),
    "deit": (transformers.DeiTModel, run_dino, 2, 0, 32, "cls"),
    "dinov3": (transformers.DINOv3ViTModel, run_dino, 3, 2, 32, "cls"),
    "dinov3-convnext": (transformers.DINOv3ConvNextModel, run_without_cls, 0, 0, 32, "mean+norm"),
    "siglip": (transformers.SiglipVisionModel, run_model, 0, 0, 32, "attention"),
    "siglip-vision": (transformers.SiglipVisionModel, run_model, 0, 0, 32, "attention"),
    "siglip-headless": (transformers.SiglipVisionModel, run_model, 0, 0, 32, "mean"),
    "siglip2-vision": (transformers.Siglip2VisionModel, run_naflex, 0, 0, 32, "attention"),
}
# Tokens that have not passed a final norm, and grids other than 4 x 4.
NOT_NORMED = ("beit", "convnext", "convnextv2")
GRIDS = dict.fromkeys(("convnext", "convnextv2", "dinov3-convnext"), (2, 2))


@pytest.fixture(scope="module")
def encoders(checkpoint):
    return {name: load_image_encoder(f"hf:{checkpoint(name)}", device="cpu") for name in CASES}


@pytest.mark.parametrize("name", CASES)
class TestHuggingFaceImages(ImageEncoderContract):
    @pytest.fixture
    def encoder(self, name, encoders):
        return encoders[name]

    @pytest.fixture
    def direct(self, name, checkpoint):
        kind, run, *_ = CASES[name]
        return run(kind, checkpoint(name))

    def test_the_card_reads_the_model(self, name, encoder):
        _, _, prefix, registers, pooled, pooling = CASES[name]
        card = encoder.card
        assert (card.prefix, card.registers, card.pooled_width, card.pooling) == (
            prefix,
            registers,
            pooled,
            pooling,
        )
        grid = GRIDS.get(name, (4, 4))
        assert (card.width, card.grid, card.final_norm) == (32, grid, name not in NOT_NORMED)
        assert (card.layer, card.positions) == (-1, None)
        assert card.model == f"tiny-{name}"
        assert card.processor.backend == "torchvision"

    def test_prepare_gives_the_bits_of_the_processor(self, name, encoder, checkpoint):
        if name == "siglip2-vision":
            pytest.skip("its processor gives patches of as many shapes as pictures")
        processor = transformers.AutoImageProcessor.from_pretrained(checkpoint(name), backend="torchvision")
        for picture in sample_pictures():
            expected = processor(images=picture, return_tensors="np")["pixel_values"][0]
            assert np.array_equal(encoder.prepare(picture), expected)


def test_processor_card_says_what_the_processor_does(encoders):
    card = encoders["dinov2"].card.processor
    assert (card.class_name, card.resize, card.crop) == (
        "BitImageProcessor",
        "shortest_edge=32",
        "center=28x28",
    )
    assert card.interpolation == "bicubic+antialias"
    assert card.rescale == pytest.approx(1 / 255)
    exact = encoders["vit"].card.processor
    assert (exact.resize, exact.crop, exact.interpolation) == ("exact=28x28", None, "bilinear+antialias")
    assert exact.mean == exact.std == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("name", ["vit", "clip"])
def test_the_pil_backend_is_another_card_with_its_own_pixels(checkpoint, name, encoders):
    encoder = load_image_encoder(f"hf:{checkpoint(name)}?backend=pil", device="cpu")
    assert encoder.card.processor.backend == "pil"
    assert encoder.card.identity != encoders[name].card.identity
    assert "torchvision" not in encoder.card.versions
    processor = transformers.AutoImageProcessor.from_pretrained(checkpoint(name), backend="pil")
    for picture in sample_pictures():
        expected = processor(images=picture, return_tensors="np")["pixel_values"][0]
        assert np.array_equal(encoder.prepare(picture), expected)
    assert not np.array_equal(
        encoder.prepare(sample_pictures()[0]), encoders[name].prepare(sample_pictures()[0])
    )


@pytest.mark.parametrize(
    ("name", "resize", "crop"),
    [
        ("dinov2", "shortest_edge=64", "center=56x56"),
        ("vit", "exact=56x56", None),
        ("clip", "shortest_edge=56", "center=56x56"),
    ],
)
def test_image_size_scales_resize_and_crop_and_positions(checkpoint, name, resize, crop):
    encoder = load_image_encoder(f"hf:{checkpoint(name)}", device="cpu", image_size=56)
    card = encoder.card
    assert card.grid == (8, 8)
    assert (card.processor.size, card.processor.resize, card.processor.crop) == ((56, 56), resize, crop)
    batch = encoder.encode([encoder.prepare(picture) for picture in sample_pictures()])
    assert tuple(batch.tokens.shape) == (4, 64, 32)


def test_positions_are_interpolated_as_the_library_does(checkpoint):
    encoder = load_image_encoder(f"hf:{checkpoint('vit')}?image_size=42", device="cpu")
    pixels = [encoder.prepare(picture) for picture in sample_pictures()]
    model = transformers.ViTModel.from_pretrained(checkpoint("vit")).eval()
    expected = model(torch.from_numpy(np.stack(pixels)), interpolate_pos_encoding=True).last_hidden_state
    assert_vectors_agree(encoder.encode(pixels).tokens, expected[:, 1:].detach())


def test_tokens_are_row_major_over_a_grid_that_is_not_square(checkpoint):
    encoder = load_image_encoder(f"hf:{checkpoint('dinov2')}", device="cpu", image_size=(28, 42))
    assert encoder.card.grid == (4, 6)
    assert encoder.card.processor.resize == "shortest_edge=48"
    flat = np.zeros((3, 28, 42), dtype=np.float32)
    before = encoder.encode([flat]).tokens[0]
    for row, column in [(0, 5), (1, 0), (2, 3), (3, 5)]:
        pixels = flat.copy()
        pixels[:, 7 * row : 7 * row + 7, 7 * column : 7 * column + 7] = 3.0
        moved = (encoder.encode([pixels]).tokens[0] - before).norm(dim=-1)
        assert int(moved.argmax()) == row * 6 + column


def test_asking_for_the_own_size_changes_nothing(checkpoint, encoders):
    assert (
        load_image_encoder(f"hf:{checkpoint('dinov2')}", device="cpu", image_size=28).card
        == encoders["dinov2"].card
    )


def test_an_image_size_that_leaves_out_a_border_is_refused(checkpoint):
    with pytest.raises(UsageError, match=r"multiple of the patch size(.|\n)*30x30(.|\n)*28 or 35"):
        load_image_encoder(f"hf:{checkpoint('vit')}", device="cpu", image_size=30)


def test_the_hash_is_of_the_tensors_not_of_the_folder(checkpoint, encoders, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(checkpoint("vit"), moved)
    again = load_image_encoder(f"hf:{moved}", device="cpu").card
    assert again.weights_sha256 == encoders["vit"].card.weights_sha256
    assert again.model == "elsewhere"
    model = transformers.ViTModel.from_pretrained(moved)
    with torch.no_grad():
        model.layernorm.bias[0] += 1e-6
    model.save_pretrained(moved)
    assert load_image_encoder(f"hf:{moved}", device="cpu").card.weights_sha256 != again.weights_sha256


def test_a_mask_token_does_not_decide(checkpoint, encoders, tmp_path):
    model = transformers.Dinov2Model.from_pretrained(checkpoint("dinov2"))
    with torch.no_grad():
        model.embeddings.mask_token += 1
    folder = tmp_path / "masked"
    shutil.copytree(checkpoint("dinov2"), folder)
    model.save_pretrained(folder)
    found = load_image_encoder(f"hf:{folder}", device="cpu").card.weights_sha256
    assert found == encoders["dinov2"].card.weights_sha256


def test_the_hash_knows_dtype_and_shape_but_no_names():
    tensor = torch.arange(6, dtype=torch.float32)
    twin, other = tensor.clone(), torch.ones(2, dtype=torch.bfloat16)
    assert weights_sha256([tensor, other]) == weights_sha256([other, twin])
    assert weights_sha256([tensor.reshape(2, 3)]) != weights_sha256([tensor])
    assert weights_sha256([tensor.view(torch.int32)]) != weights_sha256([tensor])
    assert weights_sha256([tensor, twin]) != weights_sha256([tensor])
    assert weights_sha256([torch.tensor(1.0)]) != weights_sha256([torch.tensor([1.0])])


def test_tensors_that_are_not_used_are_not_hashed(checkpoint, encoders, tmp_path):
    model = transformers.ViTModel.from_pretrained(checkpoint("vit"))
    with torch.no_grad():
        model.pooler.dense.weight += 1
    folder = tmp_path / "pooler"
    shutil.copytree(checkpoint("vit"), folder)
    model.save_pretrained(folder)
    assert (
        load_image_encoder(f"hf:{folder}", device="cpu").card.weights_sha256
        == encoders["vit"].card.weights_sha256
    )


def test_half_precision_is_recorded_and_keeps_the_identity(checkpoint, encoders):
    encoder = load_image_encoder(f"hf:{checkpoint('vit')}", device="cpu", dtype="bfloat16")
    assert encoder.card.compute_dtype == "bfloat16"
    identity = {**encoders["vit"].card.identity}
    assert encoder.card.identity == identity
    pixels = [encoder.prepare(sample_pictures()[0])]
    ours, theirs = encoder.encode(pixels).tokens.float(), encoders["vit"].encode(pixels).tokens
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=-1).min() > 0.99


def test_loading_is_silent(checkpoint, capfd, recwarn):
    load_image_encoder(f"hf:{checkpoint('vit-classifier')}", device="cpu")
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    assert not recwarn.list


def test_a_checkpoint_without_tensors_that_are_used_is_refused(checkpoint, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(checkpoint("vit"), folder)
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    kept = {name: t for name, t in tensors.items() if not name.startswith("layernorm")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderError, match=r"lacks tensors of ViTModel(.|\n)*layernorm\.bias"):
        load_image_encoder(f"hf:{folder}", device="cpu")


def test_a_folder_without_weights_is_one_clear_error(checkpoint, tmp_path):
    folder = tmp_path / "empty"
    shutil.copytree(checkpoint("vit"), folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match=r"cannot load the model(.|\n)*complete checkpoint"):
        load_image_encoder(f"hf:{folder}", device="cpu")


def test_another_family_is_refused_with_the_known_ones(checkpoint):
    with pytest.raises(EncoderError, match=r"not an image model(.|\n)*'bert'(.|\n)*dinov2"):
        load_image_encoder(f"hf:{checkpoint('bert')}", device="cpu")


def test_code_inside_a_checkpoint_is_never_run(checkpoint, tmp_path):
    folder = tmp_path / "code"
    shutil.copytree(checkpoint("vit"), folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    with pytest.raises(EncoderError, match="cannot load the configuration"):
        load_image_encoder(f"hf:{folder}", device="cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["./nowhere/at-all", "/no/such/folder", "a/b/c"])
def test_a_missing_folder_is_not_looked_for_on_the_hub(name):
    with pytest.raises(EncoderError, match="no such folder"):
        load_image_encoder(f"hf:{name}", device="cpu")


@pytest.fixture(scope="module")
def real():
    return load_image_encoder(f"hf:{REAL}", device="cpu")


@pytest.mark.shared
@pytest.mark.skipif(not REAL.is_dir(), reason="the data folder beside the project is absent")
class TestRealViT(ImageEncoderContract):
    @pytest.fixture
    def encoder(self, real):
        return real

    @pytest.fixture
    def direct(self):
        return run_classifier(None, REAL)

    def test_the_card_reads_the_model(self, encoder):
        card = encoder.card
        assert (card.model, card.grid, card.width, card.prefix) == ("vit-tiny-in1k", (14, 14), 192, 1)
        assert card.processor.interpolation == "bicubic+antialias"
