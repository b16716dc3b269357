"""Small trainable heads on frozen tokens: one file each, found by name.

A head is a subclass of `embedstore.heads.base.Head`, constructed from a `HeadConfig`.
"""

from __future__ import annotations

from embedstore.registry import Registry

HEADS = Registry(
    "head",
    {
        "dalip": "embedstore.heads.dalip:DalipHead",
        "dinotxt": "embedstore.heads.dinotxt:DinotxtHead",
        "sail": "embedstore.heads.sail:SailHead",
        "token": "embedstore.heads.token:TokenHead",
    },
    group="embedstore.heads",
)
