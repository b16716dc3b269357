"""Frozen encoders behind one protocol. Importing this loads neither torch nor transformers."""

from __future__ import annotations

from embedstore.encoders.memory import recall, remember
from embedstore.encoders.table import (
    KINDS,
    EncoderSpec,
    default_name,
    encoder_for_card,
    load_image_encoder,
    load_text_encoder,
    split_spec,
)

__all__ = [
    "KINDS",
    "EncoderSpec",
    "default_name",
    "encoder_for_card",
    "load_image_encoder",
    "load_text_encoder",
    "recall",
    "remember",
    "split_spec",
]
