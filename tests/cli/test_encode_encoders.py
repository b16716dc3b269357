"""Every kind of encoder through the command line, from a checkpoint to a verified store."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import timm
import torch
from open_clip.model import set_model_preprocess_cfg
from open_clip.push_to_hf_hub import save_for_hf
from open_clip.transform import PreprocessCfg

from embedstore.encoders import load_image_encoder
from embedstore.store import open_store, verify_store
from embedstore_cli import app

OWN = """
from embedstore.documents import EncoderCard, ProcessorCard
from embedstore.encoders.base import ImageBatch
from embedstore.encoders.cards import python_versions
import numpy as np, torch

class Mean:
    processor = ProcessorCard(class_name="Mean", backend="python", size=(2, 3), resize="exact=2x3", crop=None,
        interpolation="bilinear", rescale=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)
    card = EncoderCard(modality="image", library="python", architecture="Mean", model="mean",
        weights_sha256="0" * 64, final_norm=False, width=3, pooled_width=3, pooling="mean", grid=(2, 3),
        processor=processor, versions=python_versions("torch"))

    def prepare(self, picture):
        return np.asarray(picture.resize((3, 2)), np.float32).transpose(2, 0, 1).copy()

    def encode(self, pixels):
        tokens = torch.from_numpy(np.stack(pixels)).flatten(2).transpose(1, 2)
        return ImageBatch(tokens=tokens, prefix=None, pooled=tokens.mean(1))
"""


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command in this process; gives its standard output."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["embedstore", *map(str, arguments)])
        handler = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as end:
            app.main()
        signal.signal(signal.SIGTERM, handler)
        out = capsys.readouterr()
        assert end.value.code == 0, out.err
        return out.out

    return call


@pytest.fixture
def models(tmp_path, tiny_words):
    """Specs of a small model of each kind."""
    torch.manual_seed(0)
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
    vit = timm.create_model("vit_tiny_patch16_224", **small)
    timm.models.save_for_hf(vit, tmp_path / "vit", data_config={"input_size": (3, 32, 32)})
    torch.save(timm.create_model("test_convnext").state_dict(), tmp_path / "convnext.pth")
    clip = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    tokenizer = SimpleNamespace(save_pretrained=lambda _: None)
    towers = open_clip.CLIP(**clip)
    set_model_preprocess_cfg(towers, asdict(PreprocessCfg(size=32)))
    save_for_hf(towers, tokenizer, clip, tmp_path / "clip", safe_serialization=True)
    (tmp_path / "mine_for_the_command.py").write_text(OWN)
    images = [
        f"vit=timm:{tmp_path / 'vit'}",
        f"maps=timm:test_convnext?checkpoint={tmp_path / 'convnext.pth'}&image_size=64",
        f"seen=open_clip:{tmp_path / 'clip'}",
        "mine=python:mine_for_the_command:Mean",
    ]
    return images, [f"read=open_clip:{tmp_path / 'clip'}", f"words=st:{tiny_words}?prompt_text=note: "]


def test_every_kind_makes_a_feature(run, models, picture_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images, texts = models
    command = [
        "encode",
        picture_folder,
        "store",
        "--limit",
        12,
        "--device",
        "cpu",
        "--policy",
        "float32",
        "--json",
    ]
    chosen = [x for spec in images for x in ("--image-encoder", spec)]
    chosen += [x for spec in texts for x in ("--text-encoder", spec)]
    predicted = json.loads(run(*command, *chosen, "--dry-run"))
    assert not (tmp_path / "store").exists()
    made = json.loads(run(*command, *chosen))["features"]
    shapes = {"vit": (16, 32), "maps": (4, 64), "seen": (16, 32), "mine": (6, 3)}
    store = open_store(tmp_path / "store")
    assert (
        {f["feature"] for f in made}
        == {*shapes, "read", "words"}
        == {f["name"] for f in predicted["features"]}
    )
    for name, shape in shapes.items():
        assert store[name].read("tokens", 0, 12).shape == (12, *shape)
    for name in ("read", "words"):
        assert len(store[name].text_tokens([0, 1]).lengths) == 2
    assert store.header("words").card.tokenizer.prompt == "note: "
    assert verify_store(tmp_path / "store").findings == ()
    shown = " ".join(run("info", "store").split())
    for words in (
        "VisionTransformer vit",
        "ConvNeXt+gelu-tanh convnext.pth",
        "TextTransformer clip",
        "Mean mean",
    ):
        assert words in shown
    from PIL import Image

    with Image.open(picture_folder / store.images()["picture"][3].as_py()) as picture:
        encoder = load_image_encoder(images[0].partition("=")[2], device="cpu")
        direct = encoder.encode([encoder.prepare(picture.convert("RGB"))])
    np.testing.assert_allclose(store["vit"].read("tokens", 3, 4), direct.tokens.numpy(), rtol=1e-4, atol=1e-5)
    sys.modules.pop("mine_for_the_command", None)


def test_rows_are_appended_to_what_each_kind_made(run, models, picture_folder, tmp_path, monkeypatch):
    """Encoders are found again by the memory, but for a class of one's own: that is named each time."""
    monkeypatch.chdir(tmp_path)
    images, _ = models
    more = tmp_path / "more" / "new"
    more.mkdir(parents=True)
    for k in range(3):
        (more / f"{k}.png").write_bytes((picture_folder / f"class0/{k:03d}.png").read_bytes())
    common = ("--limit", 12, "--device", "cpu")
    chosen = [x for spec in images[:3] for x in ("--image-encoder", spec)]
    run("encode", picture_folder, "store", *common, *chosen)
    run("encode", tmp_path / "more", "next", "--device", "cpu", "--append", "store")
    assert set(open_store(tmp_path / "next").features()) == {"vit", "maps", "seen"}
    joined = open_store(f"{tmp_path / 'store'}+{tmp_path / 'next'}")
    assert joined["maps"].read("pooled", 12, 15).shape == (3, 64)
