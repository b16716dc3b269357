from __future__ import annotations

import json
import logging
import pickle
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from open_clip.push_to_hf_hub import save_for_hf

from embedstore.encoders import default_name, encoder_for_card, load_image_encoder, load_text_encoder
from embedstore.errors import EncoderError, MissingExtraError, UnknownNameError, UsageError
from embedstore.testing.encoders import (
    SENTENCES,
    ImageEncoderContract,
    TextEncoderContract,
    assert_vectors_agree,
    sample_pictures,
)

VISION = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
# as SigLIP: nothing is masked, and the last place of the padded text is taken
SIGLIP = TEXT | {
    "vocab_size": 400,
    "hf_tokenizer_name": "here",
    "no_causal_mask": True,
    "pool_type": "last",
    "proj_bias": True,
    "tokenizer_kwargs": {"clean": "canonicalize"},
}
COCA_VISION = VISION | {
    "attentional_pool": True,
    "attn_pooler_heads": 2,
    "attn_pooler_queries": 4,
    "output_tokens": True,
}
COCA_TEXT = TEXT | {"embed_cls": True, "output_tokens": True}
DECODER = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}


def hf_tower(folder):
    return {
        "hf_model_name": str(folder),
        "hf_tokenizer_name": "here",
        "hf_proj_type": "mlp",
        "hf_pooler_type": "mean_pooler",
        "context_length": 12,
    }


def config(name, checkpoint):
    models = {
        "clip": (VISION, TEXT, {}),
        "avg": (VISION | {"pool_type": "avg", "final_ln_after_pool": True}, TEXT, {"custom_text": True}),
        "siglip": (
            {"image_size": 160, "timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none"},
            SIGLIP,
            {"embed_dim": 96, "custom_text": True, "init_logit_bias": -10},
        ),
        "convnext": (
            {"image_size": 64, "timm_model_name": "test_convnext", "timm_pool": "avg", "timm_proj": "linear"},
            TEXT,
            {},
        ),
        "resnet": (VISION | {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64}, TEXT, {}),
        "coca": (COCA_VISION, COCA_TEXT, {"multimodal_cfg": DECODER, "custom_text": True}),
        "roberta": (VISION, hf_tower(checkpoint("roberta")) if name == "roberta" else {}, {}),
    }
    vision, text, more = models[name]
    return {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text, **more}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, checkpoint, randomised):
    """A function from a name to a folder that open_clip saved: random weights of a small model."""
    saved = {}
    home = tmp_path_factory.mktemp("open-clip")

    def save(name):
        if name not in saved:
            (home / "configs").mkdir(exist_ok=True)
            described = config(name, checkpoint)
            (home / "configs" / f"tiny-{name}.json").write_text(json.dumps(described))
            open_clip.add_model_config(home / "configs" / f"tiny-{name}.json")
            model = randomised(open_clip.create_model(f"tiny-{name}", pretrained_text=False))
            open_clip.factory._MODEL_CONFIGS.pop(f"tiny-{name}")
            tokenizer = SimpleNamespace(save_pretrained=lambda _: None)
            if described["text_cfg"].get("hf_tokenizer_name"):
                tokenizer = open_clip.tokenizer.HFTokenizer(checkpoint("roberta"))
            saved[name] = home / f"tiny-{name}"
            save_for_hf(model, tokenizer, described, saved[name], safe_serialization=True)
        return saved[name]

    return save


def directly(folder):
    name = f"local-dir:{folder}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    return model.eval(), transform, open_clip.get_tokenizer(name)


# name -> prefix, grid, final norm, width
IMAGES = {
    "clip": (1, (4, 4), True, 32),
    "avg": (1, (4, 4), True, 32),
    "siglip": (1, (10, 10), True, 96),
    "convnext": (0, (2, 2), False, 64),
    "resnet": (0, (2, 2), False, 256),
    "coca": (1, (4, 4), False, 32),
}


def run_images(folder, name):
    """By hand, or by hooks where the library gives no tokens."""
    model, transform, _ = directly(folder)
    visual = model.visual

    @torch.inference_mode()
    def run(pictures):
        pixels = torch.stack([transform(picture) for picture in pictures])
        seen = {}
        places = {"siglip": "trunk.norm", "convnext": "trunk.norm_pre", "resnet": "layer4"}
        hook = visual.get_submodule(places.get(name, "transformer")).register_forward_hook(
            lambda _, __, out: seen.setdefault("hidden", out)
        )
        pooled = model.encode_image(pixels, normalize=False)
        hook.remove()
        hidden = seen["hidden"]
        if hidden.ndim == 4:
            hidden = hidden.flatten(2).transpose(1, 2)
        if name in ("clip", "avg"):
            hidden = visual.ln_post(hidden)
        return hidden.numpy(), pooled.numpy()

    return run


@pytest.fixture(scope="module")
def images(folder):
    return {name: load_image_encoder(f"open_clip:{folder(name)}", device="cpu") for name in IMAGES}


@pytest.mark.parametrize("name", IMAGES)
class TestOpenCLIPImages(ImageEncoderContract):
    @pytest.fixture
    def encoder(self, name, images):
        return images[name]

    @pytest.fixture
    def direct(self, name, folder):
        return run_images(folder(name), name)

    def test_the_card_reads_the_model(self, name, encoder):
        prefix, grid, normed, width = IMAGES[name]
        card = encoder.card
        assert (card.prefix, card.grid, card.final_norm, card.width) == (prefix, grid, normed, width)
        assert (card.library, card.model, card.pooling) == ("open_clip", f"tiny-{name}", "image_features")
        assert card.processor.backend == "open_clip"


TEXTS = {"clip": (16, 24), "siglip": (16, 96), "coca": (16, 24), "roberta": (12, 24)}


def run_texts(folder, name):
    model, _, tokenizer = directly(folder)
    tower = getattr(model, "text", model)

    @torch.inference_mode()
    def run(texts):
        ids = tokenizer([text.replace("\ud83d", "\ufffd") for text in texts])
        seen = []
        hook = tower.transformer.register_forward_hook(lambda _, __, out: seen.append(out))
        pooled = model.encode_text(ids, normalize=False)
        hook.remove()
        hidden = seen[0].last_hidden_state if name == "roberta" else tower.ln_final(seen[0])
        if name == "clip":
            lengths = ids.argmax(dim=1) + 1
        elif name == "coca":
            lengths = (ids != 0).sum(dim=1)
        else:
            inner = tokenizer.tokenizer
            clean = [tokenizer.clean_fn(text) for text in texts]
            lengths = [len(inner(text, truncation=True, max_length=ids.shape[1]).input_ids) for text in clean]
        return [h[:n].numpy() for h, n in zip(hidden, lengths, strict=True)], pooled.numpy()

    return run


@pytest.fixture(scope="module")
def texts(folder):
    return {name: load_text_encoder(f"open_clip:{folder(name)}", device="cpu") for name in TEXTS}


@pytest.mark.parametrize("name", TEXTS)
class TestOpenCLIPTexts(TextEncoderContract):
    @pytest.fixture
    def encoder(self, name, texts):
        return texts[name]

    @pytest.fixture
    def direct(self, name, folder):
        return run_texts(folder(name), name)

    def test_the_card_reads_the_model(self, name, encoder):
        length, pooled = TEXTS[name]
        card = encoder.card
        assert (card.tokenizer.max_length, card.width, card.pooled_width) == (length, 32, pooled)
        assert (card.library, card.pooling, card.final_norm) == ("open_clip", "text_features", True)
        assert card.tokenizer.padded_to == (16 if name in ("siglip", "coca") else None)


def test_padding_is_not_computed_where_no_token_sees_it(texts):
    ids, _ = texts["clip"].prepare(["a dog"])
    for name, places in (("clip", 4), ("roberta", 4), ("siglip", 16), ("coca", 16)):
        widths = []
        tower = getattr(texts[name].model, "text", texts[name].model)
        embedding = getattr(tower, "token_embedding", None) or tower.transformer.embeddings
        hook = embedding.register_forward_pre_hook(
            lambda _, args, kwargs, seen=widths: seen.append(
                kwargs.get("input_ids", (*args, None)[0]).shape[1]
            ),
            with_kwargs=True,
        )
        ids = [np.asarray([1, 5, 6, 2])]
        texts[name].encode(ids)
        hook.remove()
        assert widths == [places], name


@pytest.fixture(scope="module")
def weights(folder, tmp_path_factory, checkpoint):
    """An architecture that open_clip knows, and a file of its weights."""
    home = tmp_path_factory.mktemp("named")
    (home / "tiny-named.json").write_text(json.dumps(config("clip", checkpoint)))
    open_clip.add_model_config(home / "tiny-named.json")
    model, *_ = directly(folder("clip"))
    torch.save({"state_dict": model.state_dict()}, home / "epoch_3.pt")
    yield home / "epoch_3.pt"
    open_clip.factory._MODEL_CONFIG_PATHS.pop()
    open_clip.factory._MODEL_CONFIGS.pop("tiny-named")


def test_an_architecture_with_a_file_of_weights(weights, images, texts, own_home, monkeypatch):
    vision = load_image_encoder(f"open_clip:tiny-named/{weights}", device="cpu")
    words = load_text_encoder(f"open_clip:tiny-named/{weights}", device="cpu")
    assert vision.card.model == words.card.model == "tiny-named/epoch_3.pt"
    assert vision.card.identity == images["clip"].card.identity
    assert words.card.identity == texts["clip"].card.identity
    monkeypatch.chdir(weights.parent)
    encoder_for_card(vision.card, "open_clip:tiny-named/epoch_3.pt", device="cpu")
    monkeypatch.chdir(weights.parent.parent)
    assert encoder_for_card(vision.card, device="cpu").card == vision.card


def test_positions_are_interpolated_as_open_clip_does(folder):
    encoder = load_image_encoder(f"open_clip:{folder('clip')}?image_size=48", device="cpu")
    assert (encoder.card.grid, encoder.card.processor.size) == ((6, 6), (48, 48))
    assert encoder.card.positions == "interpolated from 4x4"
    pixels = [encoder.prepare(picture) for picture in sample_pictures()]
    model = open_clip.create_model(f"local-dir:{folder('clip')}", force_image_size=48).eval()
    expected = model.encode_image(torch.from_numpy(np.stack(pixels))).detach()
    assert_vectors_agree(encoder.encode(pixels).pooled, expected)
    again = encoder_for_card(encoder.card, f"open_clip:{folder('clip')}", device="cpu")
    assert again.card == encoder.card


def test_the_preparation_goes_to_other_processes(images):
    sent = pickle.loads(pickle.dumps(images["clip"].preparation))  # noqa: S301 - our own bytes
    for picture in sample_pictures():
        assert np.array_equal(sent(picture), images["clip"].prepare(picture))


def test_an_image_size_that_leaves_out_a_border_is_refused(folder):
    with pytest.raises(UsageError, match=r"multiple of the patch size(.|\n)*45x45"):
        load_image_encoder(f"open_clip:{folder('clip')}?image_size=45", device="cpu")


def test_texts_are_cut_where_asked(folder, texts):
    short = load_text_encoder(f"open_clip:{folder('clip')}", device="cpu", max_length=6)
    ids, cut = short.prepare(SENTENCES)
    whole, _ = texts["clip"].prepare(SENTENCES)
    assert (len(ids[0]), cut[0], ids[0][-1]) == (6, True, whole[0][-1])
    with pytest.raises(UsageError, match=r"maximal length(.|\n)*3 to 16"):
        load_text_encoder(f"open_clip:{folder('clip')}?max_length=77", device="cpu")


def test_names_of_features():
    assert default_name("open_clip:ViT-B-32/laion2b_s34b_b79k") == "ViT-B-32-laion2b_s34b_b79k"
    assert default_name("open_clip:ViT-B-32//some/where/epoch_3.pt") == "ViT-B-32-epoch_3"
    assert default_name("open_clip:hf-hub:org/name") == "name"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ViT-B-32", r"without weights(.|\n)*laion2b_s34b_b79k"),
        ("ViT-B-33/openai", r"ARCH/TAG, ARCH/path/to/weights"),
        ("ViT-B-32/nowhere.pt", r"no such file(.|\n)*laion2b_s34b_b79k"),
    ],
)
def test_what_is_no_model_is_refused(name, words):
    with pytest.raises(UnknownNameError, match=words):
        load_image_encoder(f"open_clip:{name}", device="cpu")


def test_weights_get_the_activation_that_they_were_trained_with(monkeypatch):
    from embedstore.encoders.open_clip import locate

    assert locate("ViT-B-32/openai").quick_gelu
    assert not locate("ViT-B-32-quickgelu/openai").quick_gelu
    assert not locate("ViT-B-32/laion2b_s34b_b79k").quick_gelu
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda _: ["laion2b_s34b_b79k"])
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: {"quick_gelu": False})
    with pytest.raises(UsageError, match=r"name the architecture ViT-B-32\Z"):
        locate("ViT-B-32-quickgelu/laion2b_s34b_b79k")


def test_a_card_says_which_gelu_is_computed(folder, images, texts, tmp_path):
    """The same file of weights under an architecture and its `-quickgelu` twin is two features."""
    shutil.copytree(folder("clip"), tmp_path / "quick")
    path = tmp_path / "quick" / "open_clip_config.json"
    whole = json.loads(path.read_text())
    whole["model_cfg"]["quick_gelu"] = True
    path.write_text(json.dumps(whole))
    quick = load_image_encoder(f"open_clip:{path.parent}", device="cpu")
    words = load_text_encoder(f"open_clip:{path.parent}", device="cpu")
    assert quick.card.weights_sha256 == images["clip"].card.weights_sha256
    assert quick.card.architecture == f"{images['clip'].card.architecture}+quick-gelu"
    assert words.card.architecture == f"{texts['clip'].card.architecture}+quick-gelu"
    pixels = [quick.prepare(sample_pictures()[0])]
    assert not torch.allclose(quick.encode(pixels).tokens, images["clip"].encode(pixels).tokens, atol=1e-4)


def test_tensors_that_lack_are_refused(weights, tmp_path):
    tensors = torch.load(weights)["state_dict"]
    tensors.pop("visual.ln_post.bias")
    torch.save(tensors, tmp_path / "broken.pt")
    with pytest.raises(EncoderError, match=r"cannot load the model(.|\n)*CLIP"):
        load_image_encoder(f"open_clip:tiny-named/{tmp_path / 'broken.pt'}", device="cpu")


def test_a_folder_without_weights_is_refused(folder, tmp_path):
    (tmp_path / "open_clip_config.json").write_bytes((folder("clip") / "open_clip_config.json").read_bytes())
    with pytest.raises(EncoderError, match=r"cannot load the model(.|\n)*complete checkpoint"):
        load_image_encoder(f"open_clip:{tmp_path}", device="cpu")


def test_code_inside_a_checkpoint_is_never_run(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda _: "yes")
    for trusted in (True, None):
        copy = tmp_path / str(trusted)
        shutil.copytree(folder("siglip"), copy)
        (copy / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
        config = json.loads((copy / "open_clip_config.json").read_text())
        config["model_cfg"]["text_cfg"]["tokenizer_kwargs"]["trust_remote_code"] = trusted
        (copy / "open_clip_config.json").write_text(json.dumps(config))
        named = json.loads((copy / "tokenizer_config.json").read_text())
        named |= {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": [None, "mine.Mine"]}}
        (copy / "tokenizer_config.json").write_text(json.dumps(named))
        words = r"never done(.|\n)*trust_remote_code=True" if trusted else "cannot load the tokenizer"
        with pytest.raises(EncoderError, match=words):
            load_text_encoder(f"open_clip:{copy}", device="cpu")
    assert not (tmp_path / "ran").exists()


def test_without_open_clip_the_install_line_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    for load in (load_image_encoder, load_text_encoder):
        with pytest.raises(MissingExtraError, match=r"pip install 'embedstore\[open-clip\]'"):
            load("open_clip:ViT-B-32/openai", device="cpu")


def test_loading_is_silent(folder, capfd, recwarn):
    handlers = list(logging.getLogger().handlers)
    load_image_encoder(f"open_clip:{folder('clip')}", device="cpu")
    load_text_encoder(f"open_clip:{folder('siglip')}", device="cpu")
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    assert not recwarn.list
    assert logging.getLogger().handlers == handlers


def test_half_precision_is_recorded_and_keeps_the_identity(folder, images):
    for name in ("clip", "siglip"):
        half = load_image_encoder(f"open_clip:{folder(name)}?dtype=bfloat16", device="cpu")
        assert half.card.compute_dtype == "bfloat16"
        assert half.card.identity == images[name].card.identity
        inputs = [half.prepare(sample_pictures()[0])]
        ours, theirs = half.encode(inputs).tokens.float(), images[name].encode(inputs).tokens
        assert torch.nn.functional.cosine_similarity(ours, theirs, dim=-1).min() > 0.98


def test_half_precision_of_texts_is_recorded_and_keeps_the_identity(folder, texts):
    for name in ("clip", "siglip", "roberta"):
        half = load_text_encoder(f"open_clip:{folder(name)}?dtype=bfloat16", device="cpu")
        assert half.card.compute_dtype == "bfloat16"
        assert half.card.identity == texts[name].card.identity
        inputs, _ = half.prepare(["a dog runs on the beach"])
        ours, theirs = half.encode(inputs).tokens.float(), texts[name].encode(inputs).tokens
        assert torch.nn.functional.cosine_similarity(ours, theirs, dim=-1).min() > 0.98
