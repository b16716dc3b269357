"""The training script makes a folder that transformers opens; so is the shipped one."""

import json
import math
from importlib.resources import files

import pytest
import torch
from transformers import AutoImageProcessor, AutoModel

from embedstore.errors import UsageError
from embedstore.recipes.scene_pretraining import (
    CODE_WIDTH,
    Task,
    TrainConfig,
    check,
    new_encoder,
    start_from_patches,
)
from embedstore.recipes.scene_views import (
    GRID,
    IMAGE_SIZE,
    PATCH,
    TARGET_WIDTH,
    augment,
    lively_patches,
    normalised,
    patch_targets,
    patches_of,
    render,
    salience,
    scene_codes,
    zooms,
)
from embedstore.recipes.train_demo_encoder import PROBED, main, probe
from embedstore.sources.scenes import ScenesSource

SHIPPED = files("embedstore") / "encoders" / "data" / "vit-scenes"
TINY = [
    "--steps",
    "3",
    "--scenes",
    "24",
    "--batch-size",
    "8",
    "--width",
    "32",
    "--layers",
    "2",
    "--heads",
    "2",
]
TINY += ["--probe-scenes", "40", "--threads", "1"]


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder") / "made" / "here"
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("embedstore.recipes.train_demo_encoder._say", lines.append)
        threads = torch.get_num_threads()
        assert main(["--out", str(folder), *TINY]) == 0
        torch.set_num_threads(threads)
    return folder, lines


def test_a_tiny_run_makes_a_folder_that_transformers_opens(tiny_run):
    folder, lines = tiny_run
    steps = [json.loads(line) for line in lines if line.startswith("{")]
    assert [s["step"] for s in steps] == [1, 3]
    assert all(math.isfinite(s[k]) for s in steps for k in ("loss", "patches", "whole"))
    assert all(fact in lines[-1] for fact in PROBED)
    model = AutoModel.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    pixels = processor(images=ScenesSource(1)[0].picture.open(), return_tensors="pt")["pixel_values"]
    assert model.__class__.__name__ == "Dinov2Model"
    assert model(pixels).last_hidden_state.shape == (1, 1 + GRID**2, 32)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert lines[-1] in card
    assert str(folder) not in card


def test_the_same_options_make_the_same_weights(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr("embedstore.recipes.train_demo_encoder._say", lambda _: None)
    threads = torch.get_num_threads()
    main(["--out", str(tmp_path), *TINY])
    torch.set_num_threads(threads)
    name = "model.safetensors"
    assert (tmp_path / name).read_bytes() == (tiny_run[0] / name).read_bytes()


def test_the_shipped_encoder_is_small_and_whole():
    parts = {f.name: f.read_bytes() for f in SHIPPED.iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} == set(parts)
    assert sum(map(len, parts.values())) <= 4_000_000
    model = AutoModel.from_pretrained(str(SHIPPED)).eval()
    processor = AutoImageProcessor.from_pretrained(str(SHIPPED))
    assert model.config.model_type == "dinov2"
    assert (model.config.image_size, model.config.patch_size) == (IMAGE_SIZE, PATCH)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    pictures = [ScenesSource(3, 5)[i].picture.open() for i in range(3)]
    with torch.inference_mode():
        tokens = model(**processor(images=pictures, return_tensors="pt")).last_hidden_state
    assert tokens.shape == (3, 1 + GRID**2, model.config.hidden_size)
    assert torch.isfinite(tokens).all()


def test_the_processor_prepares_pictures_as_the_training_did():
    processor = AutoImageProcessor.from_pretrained(str(SHIPPED))
    pixels, _ = render(5, 0, 3)
    pictures = [ScenesSource(3, 5, IMAGE_SIZE)[i].picture.open() for i in range(3)]
    prepared = processor(images=pictures, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(prepared, normalised(pixels), atol=1e-5, rtol=0)


def test_the_shipped_encoder_sees_more_than_random_weights():
    model = AutoModel.from_pretrained(str(SHIPPED)).eval()
    torch.manual_seed(0)
    untrained = probe(new_encoder(TrainConfig()).eval(), 400)
    trained = probe(model, 400)
    assert trained["shape"] > untrained["shape"] + 0.1
    assert trained["colour"] > untrained["colour"] + 0.1
    assert trained["texture"] > untrained["texture"] + 0.1


def test_views_keep_shape_range_and_seed():
    pixels, scenes = render(0, 0, 6)
    assert pixels.shape == (6, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert pixels.dtype == torch.uint8
    assert len(scenes) == 6
    views = [augment(pixels, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert views[0].shape == pixels.shape
    assert float(views[0].min()) >= 0
    assert float(views[0].max()) <= 255
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])


def test_zooms_find_the_main_object_by_pixels():
    pixels, scenes = render(3, 0, 40)
    colours, found = zooms(pixels)
    assert colours.shape == (40, 3, 64, 64)
    assert found.shape == (40, 1, 64, 64)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    alone = [i for i, scene in enumerate(scenes) if len(scene.things) == 1 and scene.main.shape != "ring"]
    middle, rim = found[alone, 0, 24:40, 24:40].mean((1, 2)), found[alone, 0, :4].mean((1, 2))
    assert float((middle > rim).double().mean()) > 0.9


def test_salience_sees_through_a_slope_of_light():
    slope = torch.linspace(40, 220, IMAGE_SIZE).expand(1, 3, IMAGE_SIZE, IMAGE_SIZE).clone()
    assert float(salience(slope).max()) < 0.01
    slope[:, 0, 50:60, 50:60] = 0
    slope[:, 1, 50:60, 50:60] = 255
    found = salience(slope)[0, 0]
    assert float(found[50:60, 50:60].min()) > 0.5
    assert float(found[:40].max()) < 0.05


def test_codes_are_centred_and_apart():
    pixels, _ = render(4, 0, 100)
    codes = scene_codes(pixels, 24)
    assert codes.shape == (100, 24)
    assert float(codes.mean(0).abs().max()) < 1e-3
    assert float(codes.square().mean()) == pytest.approx(1, abs=1e-3)
    assert float(torch.cov(codes.T).tril(-1).abs().max()) < 1e-2


def test_lively_patches_prefer_things_to_bare_ground():
    pixels = torch.full((200, 3, IMAGE_SIZE, IMAGE_SIZE), 90.0)
    pixels[:, :, 2 * PATCH + 4 : 3 * PATCH, 3 * PATCH : 5 * PATCH] = 250
    keep = lively_patches(pixels, 0.25, torch.Generator().manual_seed(0))
    assert keep.shape == (200, 16)
    assert all(len(set(row)) == 16 for row in keep.tolist())
    shares = torch.bincount(keep.flatten(), minlength=GRID**2) / 200
    assert shares[2 * GRID + 3] > 0.9
    assert shares[2 * GRID + 4] > 0.9
    assert 0 < shares[0] < 0.6
    every = lively_patches(pixels[:2], 1.0, torch.Generator().manual_seed(0))
    assert every.sort(1).values.tolist() == [list(range(GRID**2))] * 2


def test_patches_are_cut_row_by_row():
    field = torch.arange(IMAGE_SIZE**2, dtype=torch.float32).reshape(1, 1, IMAGE_SIZE, IMAGE_SIZE)
    field = torch.cat([field, -field], 1)
    cut = patches_of(field)
    assert cut.shape == (1, GRID**2, 2 * PATCH**2)
    expected = field[0, :, 3 * PATCH : 4 * PATCH, 5 * PATCH : 6 * PATCH].flatten()
    assert torch.equal(cut[0, 3 * GRID + 5], expected)


def test_targets_tell_edge_directions_apart():
    stripes = torch.zeros(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    stripes[0, :, :, ::8] = stripes[0, :, :, 1::8] = 200
    stripes[1] = stripes[0].transpose(1, 2)
    targets = patch_targets(stripes)
    assert targets.shape == (2, GRID**2, TARGET_WIDTH)
    inner = targets[:, 3 * GRID + 3, -8:]
    assert inner[0].argmax() == 0
    assert inner[1].argmax() == 4


def test_the_first_layer_starts_with_components_of_patches():
    torch.manual_seed(0)
    encoder = new_encoder(TrainConfig(width=32, layers=1, heads=2)).eval()
    pixels, _ = render(0, 0, 40)
    start_from_patches(encoder, pixels, torch.Generator().manual_seed(0))
    with torch.inference_mode():
        out = encoder.embeddings.patch_embeddings(normalised(pixels)).flatten(0, 1).double()
    assert float(out.mean(0).abs().max()) < 1e-3
    covariance = torch.cov(out.T)
    assert float((covariance - covariance.diag().diag()).abs().max()) < 1e-3


def test_both_losses_reach_the_encoder():
    torch.manual_seed(0)
    task = Task(TrainConfig(width=32, layers=1, heads=2, batch_size=4))
    pixels, _ = render(0, 0, 4)
    losses = task(pixels, scene_codes(pixels, CODE_WIDTH), torch.Generator().manual_seed(0))
    weight = task.encoder.embeddings.patch_embeddings.projection.weight
    for name in ("patches", "whole"):
        (gradient,) = torch.autograd.grad(losses[name], weight, retain_graph=True)
        assert float(gradient.abs().sum()) > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "--steps: the value is out of range"),
        ({"batch_size": 1}, "--batch-size"),
        ({"scenes": 10, "batch_size": 11}, "allowed: 2 to 10"),
        ({"visible": 1.5}, "--visible"),
        ({"heads": 0}, "--heads"),
        ({"width": 130}, "multiples of 4 × heads"),
    ],
)
def test_config_that_no_run_could_accept(change, words):
    with pytest.raises(UsageError) as caught:
        check(TrainConfig(**change))
    assert words in str(caught.value)


@pytest.mark.parametrize("option", ["--threads", "--probe-scenes", "--layers"])
def test_options_that_no_run_could_accept(option, tmp_path):
    with pytest.raises(UsageError) as caught:
        main(["--out", str(tmp_path), option, "0"])
    assert option in str(caught.value)
