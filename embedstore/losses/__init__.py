"""Losses that align two batches of embeddings: one file each, found by name."""

from __future__ import annotations

from embedstore.registry import Registry

LOSSES = Registry(
    "loss",
    {
        "clip": "embedstore.losses.clip:ClipLoss",
    },
    group="embedstore.losses",
)
