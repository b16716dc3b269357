"""Losses that align two batches of embeddings: one file each, found by name.

A loss is a subclass of `embedstore.losses.base.Loss`.
"""

from __future__ import annotations

from embedstore.registry import Registry

LOSSES = Registry(
    "loss",
    {
        "clip": "embedstore.losses.clip:ClipLoss",
        "sparc": "embedstore.losses.sparc:SparcLoss",
        "sigmoid": "embedstore.losses.sigmoid:SigmoidLoss",
        "sigmoid-sum": "embedstore.losses.sigmoid:SigmoidSumLoss",
    },
    group="embedstore.losses",
)
