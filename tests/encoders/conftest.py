"""Tiny checkpoints of every architecture, random weights, written by the libraries' own save_pretrained."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

if TYPE_CHECKING:
    from pathlib import Path

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
VISION = {**SMALL, "image_size": 28, "patch_size": 7}
# Dropout that a forgotten eval() would show
VIT = {**VISION, "hidden_dropout_prob": 0.5}
DINO = {k: v for k, v in VIT.items() if k != "intermediate_size"}
CORPUS = [
    "a dog runs on the beach while two red cubes stand left of a small green ball",
    "the wooden table near the window holds a blue cone and a yellow cylinder",
    "ein Mädchen läuft am Strand",
]


@pytest.fixture(scope="session", name="randomised")
def _randomised():
    return randomised


def randomised(model):
    """Weights far from the usual small initialisation, so that every token differs from every other."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator) * 0.2
        parameter.data = noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return model.eval()


def bit_processor():
    return transformers.BitImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}, do_center_crop=True, resample=3
    )


def vit_processor():
    return transformers.ViTImageProcessor(size={"height": 28, "width": 28})


def clip_processor():
    return transformers.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})


def wordpiece():
    words = sorted({w.lower() for line in CORPUS for w in line.split()})
    letters = sorted(set("abcdefghijklmnopqrstuvwxyz"))
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    vocab += [x for c in letters for x in (c, f"##{c}") if x not in words]
    ids = {word: i for i, word in enumerate(vocab)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=512,
    )


def byte_bpe(*, start: str, end: str, specials: list[str], length: int):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        special_tokens=[(t, tokenizer.token_to_id(t)) for t in (start, end)],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=specials[0],
        bos_token=start,
        eos_token=end,
        model_max_length=length,
    )


def roberta_tokenizer():
    # <s> must not be the pad token, which stands at id 1 as in the real RoBERTa
    tokenizer = byte_bpe(start="<s>", end="</s>", specials=["<s>", "<pad>", "</s>"], length=512)
    tokenizer.pad_token = "<pad>"
    return tokenizer


def clip_tokenizer():
    return byte_bpe(start="<start>", end="<end>", specials=["<pad>", "<start>", "<end>"], length=20)


def text_config(kind, tokenizer, **options):
    return kind(vocab_size=len(tokenizer), **SMALL, pad_token_id=tokenizer.pad_token_id, **options)


def clip_legacy_tokenizer():
    """As in the first CLIP checkpoints: EOT has the highest id of all, and is the padding, too."""
    tokenizer = clip_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "<eot>", "pad_token": "<eot>"})
    backend = tokenizer.backend_tokenizer
    backend.post_processor = processors.TemplateProcessing(
        single="<start> $A <eot>", special_tokens=[(t, backend.token_to_id(t)) for t in ("<start>", "<eot>")]
    )
    return tokenizer


def clip_text_config(**options):
    tokenizer = clip_legacy_tokenizer() if options else clip_tokenizer()
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id} | options
    return text_config(
        transformers.CLIPTextConfig,
        tokenizer,
        max_position_embeddings=20,
        projection_dim=24,
        **ids,
    )


def clip_vision_config():
    return transformers.CLIPVisionConfig(**VISION, projection_dim=24)


def clip_model():
    config = transformers.CLIPConfig(
        text_config=clip_text_config().to_dict(),
        vision_config=clip_vision_config().to_dict(),
        projection_dim=24,
    )
    return transformers.CLIPModel(config)


def registers_model():
    return transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(**DINO, num_register_tokens=3)
    )


def bert_model():
    return transformers.BertModel(
        text_config(transformers.BertConfig, wordpiece(), max_position_embeddings=40)
    )


def roberta_model():
    config = text_config(transformers.RobertaConfig, roberta_tokenizer(), max_position_embeddings=42)
    return transformers.RobertaModel(config)


def mpnet_model():
    config = text_config(transformers.MPNetConfig, roberta_tokenizer(), max_position_embeddings=42)
    return transformers.MPNetModel(config)


def classifier():
    return transformers.ViTForImageClassification(transformers.ViTConfig(**VIT, num_labels=5))


BUILDERS = {
    "dinov2": (lambda: transformers.Dinov2Model(transformers.Dinov2Config(**DINO)), bit_processor),
    "dinov2-registers": (registers_model, bit_processor),
    "vit": (lambda: transformers.ViTModel(transformers.ViTConfig(**VIT)), vit_processor),
    "vit-classifier": (classifier, vit_processor),
    "clip-vision": (lambda: transformers.CLIPVisionModel(clip_vision_config()), clip_processor),
    "clip-vision-projected": (
        lambda: transformers.CLIPVisionModelWithProjection(clip_vision_config()),
        clip_processor,
    ),
    "clip": (clip_model, clip_processor, clip_tokenizer),
    "bert": (bert_model, wordpiece),
    "roberta": (roberta_model, roberta_tokenizer),
    "mpnet": (mpnet_model, roberta_tokenizer),
    "clip-text-legacy": (
        lambda: transformers.CLIPTextModel(clip_text_config(eos_token_id=2)),
        clip_legacy_tokenizer,
    ),
    "clip-text": (lambda: transformers.CLIPTextModel(clip_text_config()), clip_tokenizer),
    "clip-text-projected": (
        lambda: transformers.CLIPTextModelWithProjection(clip_text_config()),
        clip_tokenizer,
    ),
}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A function from a name of `BUILDERS` to a folder that the library saved."""

    @functools.cache
    def build(name: str) -> Path:
        folder = tmp_path_factory.mktemp("checkpoints") / f"tiny-{name}"
        model, *parts = BUILDERS[name]
        randomised(model()).save_pretrained(folder)
        for part in parts:
            part().save_pretrained(folder)
        return folder

    return build


@pytest.fixture(scope="session")
def sentence_folder(checkpoint, tmp_path_factory):
    """A SentenceTransformer with mean pooling, a Dense and a normalisation, saved by the library."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

    folder = tmp_path_factory.mktemp("sentences") / "tiny-sentences"
    transformer = Transformer(str(checkpoint("bert")), max_seq_length=24)
    dense = randomised(Dense(32, 16, activation_function=torch.nn.Tanh()))
    pipeline = SentenceTransformer(
        modules=[transformer, Pooling(32, "mean"), dense, Normalize()], device="cpu"
    )
    pipeline.save(str(folder), create_model_card=False)
    return folder


@pytest.fixture
def own_home(tmp_path, monkeypatch):
    """An empty per-user memory."""
    monkeypatch.setenv("EMBEDSTORE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
