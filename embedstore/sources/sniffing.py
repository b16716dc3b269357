"""Which kind of source a file of captions is, by its name or its first element."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_FLICKR = (".token", ".token.txt", "captions.txt")


def kind_of_file(path: Path) -> str | None:
    """`coco`, `karpathy`, `sugarcrepe` or `flickr`; none where the file is something else.

    Of a json file no more than its first image or item is read. Raises `SourceError` where it is no json.
    """
    if path.name.lower().endswith(_FLICKR):
        return "flickr"
    if path.suffix.lower() != ".json":
        return None
    from embedstore.sources.reading.json_stream import json_parts

    for at, value in json_parts(path):
        if at.key == "images" and isinstance(value, dict):
            return "karpathy" if "sentences" in value else "coco"
        if at.key == "annotations" and isinstance(value, dict):
            return "coco"
        if isinstance(value, dict) and "negative_caption" in value:
            return "sugarcrepe"
    return None
