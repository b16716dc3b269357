"""A fitted head, and with its frozen encoders a model of pictures and texts that one uses."""

from __future__ import annotations

from embedstore.model.aligned import AlignedModel, load
from embedstore.model.fitted import CONFIG, WEIGHTS, FittedHead, load_head, refuse_other_card

__all__ = [
    "CONFIG",
    "WEIGHTS",
    "AlignedModel",
    "FittedHead",
    "load",
    "load_head",
    "refuse_other_card",
]
