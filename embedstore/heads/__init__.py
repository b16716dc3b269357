"""Small trainable heads on frozen tokens: one file each, found by name.

A head is a `torch.nn.Module` built from a `HeadConfig` with the methods of `embedstore.heads.base.Head`.
"""

from __future__ import annotations

from embedstore.registry import Registry

HEADS = Registry(
    "head",
    {
        "token": "embedstore.heads.token:TokenHead",
    },
    group="embedstore.heads",
)
