"""Frozen encoders behind one protocol. Importing this loads neither torch nor transformers."""

from __future__ import annotations

from embedstore.encoders.base import cards_of, encode_all
from embedstore.encoders.memory import recall, remember
from embedstore.encoders.spec import EncoderSpec, default_name, named_features, split_spec
from embedstore.encoders.table import (
    KINDS,
    encoder_for_card,
    encoder_for_cards,
    load_image_encoder,
    load_image_pass,
    load_text_encoder,
    load_text_passes,
    same_pass,
    twin_for_cards,
)

__all__ = [
    "KINDS",
    "EncoderSpec",
    "cards_of",
    "default_name",
    "encode_all",
    "encoder_for_card",
    "encoder_for_cards",
    "load_image_encoder",
    "load_image_pass",
    "load_text_encoder",
    "load_text_passes",
    "named_features",
    "recall",
    "remember",
    "same_pass",
    "split_spec",
    "twin_for_cards",
]
