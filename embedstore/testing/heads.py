"""Head configurations with made-up encoder cards, and what every head must satisfy."""

from __future__ import annotations

from typing import Any

from embedstore.documents import EncoderCard, HeadConfig, ProcessorCard, TokenizerCard


def image_card(*, width: int, prefix: int = 1, grid: tuple[int, int] = (3, 3)) -> EncoderCard:
    """The card of an image encoder that does not exist; CLS pooled where `prefix` is not 0."""
    processor = ProcessorCard(
        class_name="Processor",
        backend="pil",
        size=(24, 24),
        resize="exact=24x24",
        crop=None,
        interpolation="bicubic",
        rescale=1 / 255,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    return EncoderCard(
        modality="image",
        library="python",
        architecture="MadeUp",
        model="made-up-vision",
        weights_sha256="1" * 64,
        final_norm=True,
        width=width,
        pooled_width=width,
        pooling="cls" if prefix else "mean",
        grid=grid,
        prefix=prefix,
        processor=processor,
        versions={},
    )


def text_card(*, width: int, max_length: int = 8) -> EncoderCard:
    """The card of a text encoder that does not exist."""
    return EncoderCard(
        modality="text",
        library="python",
        architecture="MadeUp",
        model="made-up-words",
        weights_sha256="2" * 64,
        final_norm=True,
        width=width,
        pooled_width=width,
        pooling="mean",
        tokenizer=TokenizerCard(class_name="Tokenizer", sha256="3" * 64, max_length=max_length),
        versions={},
    )


def head_config(*, image_width: int = 16, text_width: int = 12, prefix: int = 1, **sides: Any) -> HeadConfig:
    """A `HeadConfig` for made-up encoders; `sides` are fields of `HeadConfig`, width 10 unless given."""
    image, text = image_card(width=image_width, prefix=prefix), text_card(width=text_width)
    return HeadConfig(
        **{"head": "token", "width": 10, **sides},
        image_width=image_width,
        image_cls_width=image_width,
        text_width=text_width,
        image_feature="vision",
        text_feature="words",
        image_card=image,
        text_card=text,
    )
