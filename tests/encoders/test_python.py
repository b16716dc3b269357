"""The example of docs/encoders.md is the encoder under test: what it says is what works."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from embedstore.encoders import default_name, encoder_for_card, load_image_encoder, load_text_encoder, recall
from embedstore.encoders.memory import home, remember
from embedstore.errors import EncoderError, UsageError
from embedstore.testing.encoders import (
    SENTENCES,
    ImageEncoderContract,
    TextEncoderContract,
    assert_vectors_agree,
)

PAGE = Path(__file__).parents[2] / "docs" / "encoders.md"


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """A folder with the example of the docs as a module, on the path of this process."""
    folder = tmp_path_factory.mktemp("own")
    (code,) = re.findall(
        r"```python\n# my_encoders\.py\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL
    )
    (folder / "my_encoders.py").write_text(code, encoding="utf-8")
    sys.path.append(str(folder))
    yield folder
    sys.path.remove(str(folder))
    sys.modules.pop("my_encoders", None)


class TestOwnImages(ImageEncoderContract):
    @pytest.fixture
    def encoder(self, example):
        return load_image_encoder("python:my_encoders:Squares?image_size=32", device="cpu")

    @pytest.fixture
    def direct(self, encoder):
        def run(pictures):
            hidden = []
            for picture in pictures:
                pixels = np.asarray(picture.resize((32, 32)), np.float32).transpose(2, 0, 1) / 255
                cells = pixels.reshape(3, 4, 8, 4, 8).transpose(1, 3, 0, 2, 4).reshape(16, -1)
                hidden.append(cells @ encoder.weight.T.numpy())
            return np.stack(hidden), np.stack(hidden).mean(1)

        return run


class TestOwnTexts(TextEncoderContract):
    @pytest.fixture
    def encoder(self, example):
        return load_text_encoder("python:my_encoders:Letters?max_length=40", device="cpu")

    @pytest.fixture
    def direct(self, encoder):
        def run(texts):
            ids = [np.frombuffer(b"\2" + text.encode()[:39], np.uint8).astype(int) for text in texts]
            tokens = [encoder.table.numpy()[one] for one in ids]
            return tokens, np.stack([t.mean(0) for t in tokens])

        return run

    def test_it_cuts_where_it_says(self, encoder):
        assert encoder.prepare(SENTENCES)[1] == [False, False, True, False, False, True]


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module into an empty current folder; its name is new each time."""
    monkeypatch.chdir(tmp_path)
    names = []

    def write(code):
        names.append(f"own_{tmp_path.name}_{len(names)}".replace("-", "_"))
        (tmp_path / f"{names[-1]}.py").write_text(code)
        return names[-1]

    yield write
    for name in names:
        sys.modules.pop(name, None)


def test_a_module_of_the_current_folder_is_found_and_the_path_left_as_it_was(example, module):
    name = module("from my_encoders import Squares as Mine\n")
    before = list(sys.path)
    assert load_image_encoder(f"python:{name}:Mine", device="cpu").card.library == "python"
    assert sys.path == before


def test_options_reach_the_class(example):
    encoder = load_image_encoder("python:my_encoders:Squares?image_size=64&width=5", device="cpu")
    assert (encoder.card.width, encoder.card.grid) == (5, (8, 8))
    with pytest.raises(UsageError, match=r"takes no option 'depth'(.|\n)*image_size, width"):
        load_image_encoder("python:my_encoders:Squares?depth=5", device="cpu")
    with pytest.raises(UsageError, match="takes no option 'dtype'"):
        load_image_encoder("python:my_encoders:Squares", device="cpu", dtype="bfloat16")


def test_sizes_that_the_class_does_not_take_must_be_its_own(example):
    code = (
        "import my_encoders\nclass Mine(my_encoders.Letters):\n    def __init__(self): super().__init__()\n"
    )
    (example / "fixed_letters.py").write_text(code)
    assert load_text_encoder("python:fixed_letters:Mine", device="cpu", max_length=128).card.width == 8
    with pytest.raises(UsageError, match=r"another max_length(.|\n)*64(.|\n)*128"):
        load_text_encoder("python:fixed_letters:Mine?max_length=64", device="cpu")
    sys.modules.pop("fixed_letters")


def test_it_is_never_remembered_nor_run_from_the_memory(example, own_home):
    encoder = load_image_encoder("python:my_encoders:Squares", device="cpu")
    remember(encoder.card, "python:my_encoders:Squares")
    assert recall(encoder.card) is None
    remember(encoder.card, "hf:somewhere")
    path = home() / "encoders.json"
    noted = dict.fromkeys(json.loads(path.read_text()), "python:my_encoders:Squares")
    path.write_text(json.dumps(noted))
    with pytest.raises(EncoderError, match=r"nothing is known(.|\n)*--image-encoder SPEC"):
        encoder_for_card(encoder.card, device="cpu")
    found = encoder_for_card(encoder.card, "python:my_encoders:Squares", device="cpu")
    assert found.card == encoder.card


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("python:my_encoders", UsageError, "python:MODULE:CLASS"),
        ("python:my_encoders:", UsageError, "python:MODULE:CLASS"),
        ("python:nowhere_at_all:Mine", EncoderError, "no module named 'nowhere_at_all'"),
        ("python:my_encoders:Circles", EncoderError, r"no class 'Circles'(.|\n)*Squares"),
        ("python:my_encoders:Letters", EncoderError, r"another kind(.|\n)*'text'(.|\n)*modality 'image'"),
        ("python:fractions:Fraction", EncoderError, r"no image encoder(.|\n)*card, prepare, encode"),
    ],
)
def test_what_is_no_encoder_is_refused(example, spec, error, words):
    with pytest.raises(error, match=words):
        load_image_encoder(spec, device="cpu")


CROPPED = "def prepare(self, picture): return super().prepare(picture)[:, 1:]"
DOUBLE = "def prepare(self, picture): return super().prepare(picture).astype('f8')"
BARE = "def encode(self, pixels): return super().encode(pixels).tokens"
REPLACED = """def encode(self, pixels):
        b = super().encode(pixels)
        return type(b)(tokens={tokens}, prefix=None, pooled=b.pooled)"""
FEWER = REPLACED.format(tokens="b.tokens[:, 1:]")
LEARNING = REPLACED.format(tokens="b.tokens.clone().requires_grad_()")
NO_CARD = "def __init__(self, device, **more): super().__init__(**more); self.card = 3"


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (CROPPED, r"other pixels(.|\n)*31, 32\)"),
        (DOUBLE, r"other pixels(.|\n)*float64(.|\n)*float32"),
        (BARE, "encode gives no ImageBatch"),
        (FEWER, r"tokens are not what the card says(.|\n)*\(1, 15, 8\)(.|\n)*\(1, 16, 8\)"),
        (LEARNING, "tokens carry gradients"),
        (NO_CARD, "no EncoderCard"),
    ],
)
def test_a_class_that_breaks_its_word_is_refused(example, module, method, words):
    name = module(f"import my_encoders\nclass Mine(my_encoders.Squares):\n    {method}\n")
    with torch.enable_grad(), pytest.raises(EncoderError, match=words):
        load_image_encoder(f"python:{name}:Mine?image_size=32", device="cpu")


def test_texts_that_break_their_word_are_refused(example, module):
    name = module(
        "import my_encoders\nclass Mine(my_encoders.Letters):\n"
        "    def prepare(self, texts): return [list(t.encode()) for t in texts], [False for _ in texts]\n"
    )
    with pytest.raises(EncoderError, match=r"other ids(.|\n)*list(.|\n)*int64"):
        load_text_encoder(f"python:{name}:Mine", device="cpu")


def test_its_name_is_the_class():
    assert default_name("python:package.module:Mine?width=3") == "Mine"


def test_a_row_of_the_example_is_its_squares(example):
    encoder = load_image_encoder("python:my_encoders:Squares?image_size=32", device="cpu")
    pixels = np.zeros((3, 32, 32), np.float32)
    pixels[:, 8:16, 24:] = 1
    tokens = encoder.encode([pixels]).tokens[0]
    assert_vectors_agree(tokens[7], encoder.weight.sum(1))
    assert int((tokens.abs().sum(1) > 0).sum()) == 1
