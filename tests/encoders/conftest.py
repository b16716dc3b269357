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


def byte_bpe(*, start: str, end: str, specials: list[str], length: int, single: str | None = None):
    """`single`: what is put around a text, the start and the end unless it is said."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single or f"{start} $A {end}",
        special_tokens=[(t, tokenizer.token_to_id(t)) for t in dict.fromkeys((start, end))],
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


def siglip_tokenizer():
    """Ends with </s>, which is the padding, too, as in the real SigLIP."""
    return byte_bpe(start="</s>", end="</s>", specials=["</s>", "<unk>"], length=20, single="$A </s>")


class SentencePieceFolder:
    """A tokenizer of SigLIP over a SentencePiece model that is trained here."""

    def save_pretrained(self, folder):
        import sentencepiece

        lines = [line.lower() for line in CORPUS] * 9
        with (folder / "spiece.model").open("wb") as file:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=file,
                vocab_size=48,
                pad_id=-1,
                bos_id=-1,
                eos_id=1,
                unk_id=2,
                user_defined_symbols=["<pad>"],
                add_dummy_prefix=False,
                hard_vocab_limit=False,
                minloglevel=2,
            )
        tokenizer = transformers.SiglipTokenizer(str(folder / "spiece.model"), model_max_length=20)
        tokenizer.save_pretrained(folder)


def gpt_tokenizer():
    """One special token, which stands nowhere of itself: an empty text is no token at all."""
    return byte_bpe(start="<|end|>", end="<|end|>", specials=["<|end|>"], length=int(1e30), single="$A")


def llama_tokenizer():
    return byte_bpe(start="<s>", end="</s>", specials=["<s>", "</s>"], length=int(1e30), single="<s> $A")


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


def distilbert_model():
    shape = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48, "max_position_embeddings": 40}
    return transformers.DistilBertModel(transformers.DistilBertConfig(vocab_size=len(wordpiece()), **shape))


def roberta_model():
    config = text_config(transformers.RobertaConfig, roberta_tokenizer(), max_position_embeddings=42)
    return transformers.RobertaModel(config)


def mpnet_model():
    config = text_config(transformers.MPNetConfig, roberta_tokenizer(), max_position_embeddings=42)
    return transformers.MPNetModel(config)


def siglip_processor():
    return transformers.SiglipImageProcessor(size={"height": 28, "width": 28})


def siglip_vision_config(**options):
    return transformers.SiglipVisionConfig(**VISION, **options)


def siglip2_vision_config():
    shape = {k: v for k, v in VISION.items() if k != "image_size"}
    return transformers.Siglip2VisionConfig(**shape, num_patches=9)


def naflex_processor():
    return transformers.Siglip2ImageProcessor(patch_size=7, max_num_patches=17)


def dinov3_model():
    shape = {k: v for k, v in VISION.items() if k != "patch_size"}
    return transformers.DINOv3ViTModel(
        transformers.DINOv3ViTConfig(**shape, patch_size=7, num_register_tokens=2)
    )


def convnext_processor():
    return transformers.ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.875)


def dinov3_convnext_processor():
    return transformers.DINOv3ViTImageProcessor(size={"height": 64, "width": 64})


def beit_model(kind=transformers.BeitModel, **options):
    return kind(transformers.BeitConfig(**VIT, use_relative_position_bias=True, **options))


def siglip_text_config(kind=transformers.SiglipTextConfig, **options):
    shape = {"vocab_size": len(siglip_tokenizer()), **SMALL, "max_position_embeddings": 20}
    return kind(**{**shape, "pad_token_id": 0, "projection_size": 24, **options})


def siglip_model():
    config = transformers.SiglipConfig(
        text_config=siglip_text_config().to_dict(), vision_config=siglip_vision_config().to_dict()
    )
    return transformers.SiglipModel(config)


FEW_HEADS = {"num_key_value_heads": 1, "head_dim": 16}
# Model type -> class, tokenizer, what its configuration wants beside the common shape
DECODERS = {
    "gemma": ("Gemma", llama_tokenizer, FEW_HEADS),
    "gemma2": ("Gemma2", llama_tokenizer, {**FEW_HEADS, "sliding_window": 8}),
    "gemma3": ("Gemma3Text", llama_tokenizer, {**FEW_HEADS, "sliding_window": 8}),
    "gpt2": ("GPT2", gpt_tokenizer, {}),
    "gpt-neox": ("GPTNeoX", gpt_tokenizer, {}),
    "llama": ("Llama", llama_tokenizer, {"num_key_value_heads": 1}),
    "mistral": ("Mistral", llama_tokenizer, {"num_key_value_heads": 1}),
    "olmo2": ("Olmo2", gpt_tokenizer, {}),
    "opt": ("OPT", llama_tokenizer, {"word_embed_proj_dim": 32, "ffn_dim": 48}),
    "phi": ("Phi", gpt_tokenizer, {}),
    "phi3": ("Phi3", llama_tokenizer, {}),
    "qwen2": ("Qwen2", gpt_tokenizer, {"num_key_value_heads": 1}),
    "qwen3": ("Qwen3", gpt_tokenizer, FEW_HEADS),
}


def decoder(name, *, causal=False):
    """A decoder, or the language model that it is part of."""
    prefix, tokenizer, options = DECODERS[name]
    words = tokenizer()
    ids = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": 0}
    config = getattr(transformers, f"{prefix}Config")(
        vocab_size=len(words), **SMALL, max_position_embeddings=30, **ids, **options
    )
    causal_kind = "GPT2LMHeadModel" if prefix == "GPT2" else f"{prefix}ForCausalLM"
    return getattr(transformers, causal_kind if causal else f"{prefix}Model")(config)


def encoder_of_texts(prefix, **options):
    config = getattr(transformers, f"{prefix}Config")
    shape = {"max_position_embeddings": 42, **options}
    ids = {f"{name}_token_id": 0 for name in ("cls", "sep")} if prefix == "ModernBert" else {}
    return getattr(transformers, f"{prefix}Model")(text_config(config, roberta_tokenizer(), **shape, **ids))


def classifier():
    return transformers.ViTForImageClassification(transformers.ViTConfig(**VIT, num_labels=5))


OTHER_TEXTS = {
    "camembert": "Camembert",
    "deberta-v2": "DebertaV2",
    "electra": "Electra",
    "modernbert": "ModernBert",
    "xlm-roberta": "XLMRoberta",
    "xlm-roberta-xl": "XLMRobertaXL",
}
STAGES = {"hidden_sizes": [8, 12, 16, 32], "depths": [1, 1, 1, 1]}
BUILDERS = {
    "beit": (lambda: beit_model(transformers.BeitForImageClassification, num_labels=3), vit_processor),
    "beit-cls": (
        lambda: beit_model(use_mean_pooling=False, use_absolute_position_embeddings=True),
        vit_processor,
    ),
    "convnext": (
        lambda: transformers.ConvNextForImageClassification(transformers.ConvNextConfig(**STAGES)),
        convnext_processor,
    ),
    "convnextv2": (
        lambda: transformers.ConvNextV2Model(transformers.ConvNextV2Config(**STAGES)),
        convnext_processor,
    ),
    "deit": (lambda: transformers.DeiTModel(transformers.DeiTConfig(**VIT)), vit_processor),
    "dinov3": (dinov3_model, siglip_processor),
    "dinov3-convnext": (
        lambda: transformers.DINOv3ConvNextModel(transformers.DINOv3ConvNextConfig(**STAGES)),
        dinov3_convnext_processor,
    ),
    "siglip-vision": (lambda: transformers.SiglipVisionModel(siglip_vision_config()), siglip_processor),
    "siglip-headless": (
        lambda: transformers.SiglipVisionModel(siglip_vision_config(vision_use_head=False)),
        siglip_processor,
    ),
    "siglip": (siglip_model, siglip_processor, siglip_tokenizer),
    "siglip-text": (lambda: transformers.SiglipTextModel(siglip_text_config()), siglip_tokenizer),
    "siglip-slow": (
        lambda: transformers.SiglipTextModel(siglip_text_config(vocab_size=60)),
        SentencePieceFolder,
    ),
    "siglip2-text": (
        lambda: transformers.Siglip2TextModel(siglip_text_config(transformers.Siglip2TextConfig)),
        siglip_tokenizer,
    ),
    "distilbert": (distilbert_model, wordpiece),
    **{
        name: (functools.partial(decoder, name, causal=name in ("gpt2", "llama")), tokenizer)
        for name, (_, tokenizer, _) in DECODERS.items()
    },
    **{
        name: (functools.partial(encoder_of_texts, prefix), roberta_tokenizer)
        for name, prefix in OTHER_TEXTS.items()
    },
    "siglip2-vision": (
        lambda: transformers.Siglip2VisionModel(siglip2_vision_config()),
        naflex_processor,
    ),
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
