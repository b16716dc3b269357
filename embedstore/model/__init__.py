"""A fitted head, and with its frozen encoders a model of pictures and texts that one uses."""

from __future__ import annotations

from embedstore.model.aligned import AlignedModel, load
from embedstore.model.clip import load_clip
from embedstore.model.features import applied_feature, feature_of_card, feature_of_head, head_card
from embedstore.model.fitted import CONFIG, WEIGHTS, FittedHead, load_head, refuse_other_card
from embedstore.model.stored import StoredEmbeddings, stored_vectors

__all__ = [
    "CONFIG",
    "WEIGHTS",
    "AlignedModel",
    "FittedHead",
    "StoredEmbeddings",
    "applied_feature",
    "feature_of_card",
    "feature_of_head",
    "head_card",
    "load",
    "load_clip",
    "load_head",
    "refuse_other_card",
    "stored_vectors",
]
