from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
import torch
import transformers

from embedstore.documents import NAME_PATTERN
from embedstore.encoders import (
    KINDS,
    default_name,
    encoder_for_card,
    load_image_encoder,
    load_text_encoder,
    recall,
    remember,
    split_spec,
    table,
)
from embedstore.errors import EncoderError, UnknownNameError, UsageError


def test_importing_the_package_loads_no_torch():
    code = "import sys, embedstore.encoders; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_every_kind_of_the_table_loads():
    for name in ("demo", "hf", "open_clip", "st", "timm"):
        kind = KINDS.load(name)()
        assert hasattr(kind, "text") or hasattr(kind, "image")


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("hf:facebook/dinov2-large", "dinov2-large"),
        ("hf:../x/vit-tiny-in1k", "vit-tiny-in1k"),
        ("hf:../x/vit-tiny-in1k/", "vit-tiny-in1k"),
        ("hf:facebook/dinov2-large?image_size=448", "dinov2-large"),
        ("demo:minilm", "minilm"),
        ("st:/a/my model (v2)", "my-model-v2"),
        ("st:.hidden", "hidden"),
        ("st:C:\\models\\mine", "mine"),
        ("hf:---", "hf"),
    ],
)
def test_default_name(spec, name):
    assert default_name(spec) == name


def test_default_name_of_the_current_folder(tmp_path, monkeypatch):
    import re

    folder = tmp_path / "here-I-am"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert default_name("hf:.") == "here-I-am"
    assert re.fullmatch(NAME_PATTERN, default_name("hf:..")) is not None


def test_split_spec():
    spec = split_spec("hf:facebook/dinov2-large?image_size=448&backend=pil")
    assert (spec.kind, spec.name) == ("hf", "facebook/dinov2-large")
    assert spec.options == {"image_size": 448, "backend": "pil"}


@pytest.mark.parametrize("spec", ["dinov2-large", "facebook/dinov2-large", ":x", "hf:", "./a:b", ""])
def test_a_spec_without_a_kind_gets_the_grammar(spec):
    with pytest.raises(UsageError, match=r"KIND:NAME, for example hf:facebook/dinov2-large"):
        load_image_encoder(spec)


@pytest.mark.parametrize("query", ["?image_size=big", "?image_size=-1", "?", "?image_size="])
def test_a_broken_option_is_refused(query):
    with pytest.raises(UsageError):
        split_spec("hf:x" + query)


@pytest.mark.parametrize("size", ["0", "0x224", "6000", "224x999999999"])
def test_a_size_that_no_model_is_shown_is_refused_before_anything_is_loaded(size):
    for kind in ("hf:nowhere/x", "timm:test_vit3", "open_clip:ViT-B-32/openai"):
        with pytest.raises(UsageError, match=rf"no such image size\n  found: {size}\n  allowed: 1 pixel"):
            load_image_encoder(f"{kind}?image_size={size}")
    with pytest.raises(UsageError, match=r"no such image size\n  found: -1"):
        load_image_encoder("hf:nowhere/x", image_size=-1)


def test_an_unknown_option_names_the_known_ones():
    with pytest.raises(UsageError, match=r"unknown option 'size'(.|\n)*image_size"):
        load_image_encoder("hf:facebook/dinov2-large?size=3")


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(UnknownNameError, match=r"'hff'(.|\n)*did you mean 'hf'"):
        load_text_encoder("hff:bert-base-uncased")


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(checkpoint, device):
    with pytest.raises(UsageError, match=r"device(.|\n)*auto"):
        load_image_encoder(f"hf:{checkpoint('vit')}", device=device)


def test_an_unknown_dtype_is_refused(checkpoint):
    with pytest.raises(UsageError, match=r"float8(.|\n)*bfloat16"):
        load_image_encoder(f"hf:{checkpoint('vit')}", device="cpu", dtype="float8")


def test_threads_are_set(checkpoint):
    before = torch.get_num_threads()
    try:
        load_image_encoder(f"hf:{checkpoint('vit')}", device="cpu", threads=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_hub_id_that_cannot_be_fetched_is_one_clear_error(monkeypatch):
    def offline(*_, **__):
        raise OSError("We couldn't connect to the hub\nand more lines")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", offline)
    with pytest.raises(
        EncoderError, match=r"some/model: cannot load(.|\n)*couldn't connect(.|\n)*local folder"
    ) as e:
        load_image_encoder("hf:some/model")
    assert "more lines" not in str(e.value)


@pytest.fixture
def vit(checkpoint):
    return load_image_encoder(f"hf:{checkpoint('vit')}", device="cpu")


def test_an_encoder_is_found_again_through_the_memory(vit, checkpoint, own_home):
    remember(vit.card, f"hf:{checkpoint('vit')}")
    assert encoder_for_card(vit.card, device="cpu").card == vit.card


def test_a_spec_that_fits_is_remembered(vit, checkpoint, own_home):
    encoder_for_card(vit.card, f"hf:{checkpoint('vit')}", device="cpu")
    assert encoder_for_card(vit.card, device="cpu").card == vit.card
    with pytest.raises(EncoderError):
        encoder_for_card(vit.card, f"hf:{checkpoint('dinov2')}", device="cpu")
    assert recall(vit.card) == f"hf:{checkpoint('vit')}"


def test_overrides_are_restored_from_the_card(checkpoint, own_home):
    made = load_image_encoder(f"hf:{checkpoint('dinov2')}?backend=pil", device="cpu", image_size=56)
    assert encoder_for_card(made.card, f"hf:{checkpoint('dinov2')}", device="cpu").card == made.card
    text = load_text_encoder(f"hf:{checkpoint('bert')}", device="cpu", max_length=9)
    assert encoder_for_card(text.card, f"hf:{checkpoint('bert')}", device="cpu").card == text.card


def test_the_same_weights_under_another_name_are_the_same_encoder(vit, checkpoint, own_home, tmp_path):
    shutil.copytree(checkpoint("vit"), tmp_path / "renamed")
    older = vit.card.model_copy(update={"versions": {"torch": "1.0"}, "compute_dtype": "float16"})
    found = encoder_for_card(older, f"hf:{tmp_path / 'renamed'}", device="cpu")
    assert found.card.model == "renamed"


def test_another_encoder_is_refused_with_the_fields(vit, checkpoint, own_home):
    with pytest.raises(EncoderError, match=r"not the encoder(.|\n)*architecture(.|\n)*weights_sha256") as e:
        encoder_for_card(vit.card, f"hf:{checkpoint('dinov2')}", device="cpu")
    assert "--image-encoder SPEC" in str(e.value)
    assert "versions" not in str(e.value)


def test_nothing_known_names_the_option(vit, own_home):
    with pytest.raises(EncoderError, match=r"nothing is known(.|\n)*--image-encoder SPEC"):
        encoder_for_card(vit.card)


def test_a_remembered_folder_that_is_gone_names_the_option(vit, own_home, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    remember(vit.card, f"hf:{gone}")
    gone.rmdir()
    with pytest.raises(EncoderError, match=r"no longer where it was(.|\n)*--image-encoder SPEC"):
        encoder_for_card(vit.card)


def test_public_names_are_tried(vit, monkeypatch, own_home):
    asked = []
    monkeypatch.setattr(table, "_load", lambda spec, *_: asked.append(str(spec)) or vit)
    for model, library, revision in [
        ("facebook/dinov2-small", "transformers", None),
        ("org/sentences", "sentence-transformers", "abc"),
        ("vit-scenes", "transformers", None),
        ("all-MiniLM-L6-v2", "sentence-transformers", None),
    ]:
        card = vit.card.model_copy(update={"model": model, "library": library, "revision": revision})
        monkeypatch.setattr(table, "_check_same", lambda *_: None)
        encoder_for_card(card)
    assert asked == [
        "hf:facebook/dinov2-small",
        "st:org/sentences?revision=abc",
        "demo:vit-scenes",
        "demo:minilm",
    ]
    assert recall(vit.card) is None
