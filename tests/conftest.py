"""What tests of several rooms share: tiny real checkpoints, pictures, and the data beside the project."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

# No deadline: machines are shared and noisy. On CI the examples stay the same from run to run.
settings.register_profile("patient", parent=settings(), deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("patient")

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def _own_memory(tmp_path_factory):
    """Keep the per-user memory of encoders out of the user's home, in child processes too."""
    before = os.environ.get("EMBEDSTORE_HOME")
    os.environ["EMBEDSTORE_HOME"] = str(tmp_path_factory.mktemp("home"))
    yield
    os.environ.pop("EMBEDSTORE_HOME")
    if before is not None:
        os.environ["EMBEDSTORE_HOME"] = before


@pytest.fixture(scope="session", autouse=True)
def _interruptible():
    """A run in the background of a shell ignores interruptions, and its child processes would too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command in this process; gives exit code, standard output and standard error."""
    from embedstore_cli import app

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["embedstore", *map(str, arguments)])
        handler = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as end:
            app.main()
        signal.signal(signal.SIGTERM, handler)
        out = capsys.readouterr()
        return end.value.code, out.out, out.err

    return call


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real pictures and a real model beside the project."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared/data beside the project")
    return SHARED


@pytest.fixture(scope="session")
def tiny_vision(tmp_path_factory):
    """A DINOv2 checkpoint of random weights, 28 px, 4 × 4 patches, 32 wide, as its library saves it."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("models") / "tiny-dino"
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=7
    )
    transformers.Dinov2Model(config).save_pretrained(folder)
    transformers.BitImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}, resample=3
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_words(tmp_path_factory):
    """A BERT checkpoint of random weights with a letter tokenizer, 24 wide, at most 48 tokens."""
    import string

    import torch
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *string.ascii_lowercase]
    vocab += [f"##{letter}" for letter in string.ascii_lowercase]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocab)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=48
    ).save_pretrained(folder)
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=len(vocab),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=48,
    )
    transformers.BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def picture_folder(tmp_path):
    """100 pictures in 4 class folders with two captions each: a folder source sorted by class."""
    root = tmp_path / "pictures"
    rng = np.random.default_rng(0)
    lines = ["image,caption,split"]
    for k in range(100):
        name = f"class{k // 25}/{k:03d}.png"
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (36, 40, 3), np.uint8)).save(path)
        split = "test" if k % 5 == 0 else "train"
        lines += [f"{name},picture number {k},{split}", f"{name},another word for {k},{split}"]
    (root / "captions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root
