"""Head configurations for encoders that do not exist, for tests and benchmarks of heads."""

from __future__ import annotations

from typing import Any

from embedstore.documents import HeadConfig
from embedstore.testing.stores import random_card


def head_config(*, image_width: int = 16, text_width: int = 12, prefix: int = 1, **sides: Any) -> HeadConfig:
    """A `HeadConfig` for random cards; `sides` are its other fields, width 10 unless given."""
    return HeadConfig(
        **{"head": "token", "width": 10, **sides},
        image_width=image_width,
        image_cls_width=image_width,
        text_width=text_width,
        image_feature="vision",
        text_feature="words",
        image_card=random_card("image", width=image_width, tokens=9, prefix=prefix),
        text_card=random_card("text", width=text_width, tokens=8),
    )
