"""What the benchmark of encoding works on: pictures, captions, and models of random weights.

The photographs and captions of ../shared/data are taken where they are; else pictures are painted.
"""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

FLICKR = Path(__file__).parents[2] / "shared" / "data" / "flickr8k-1k"


def pictures(folder: Path) -> tuple[list[Path], str]:
    """Some JPEG files with a shorter side of 256 pixels, and what they are."""
    found = sorted((FLICKR / "images").glob("*.jpg"))
    if found:
        return found, "Flickr8k photographs, shorter side 256"
    folder.mkdir()
    drawn = np.random.default_rng(0)
    for k in range(256):
        coarse = Image.fromarray(drawn.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        coarse.resize((340, 256), Image.Resampling.BICUBIC).save(folder / f"{k}.jpg", quality=85)
    return sorted(folder.glob("*.jpg")), "painted pictures, 340 x 256"


def linked(folder: Path, files: list[Path], count: int) -> Path:
    """A folder of `count` pictures: the files over and over, as links within one disk or copies."""
    folder.mkdir()
    for k in range(count):
        source, target = files[k % len(files)], folder / f"{k:06d}.jpg"
        try:
            os.link(source, target)
        except OSError:
            target.write_bytes(source.read_bytes())
    return folder


def enlarged(folder: Path, files: list[Path], shorter: int) -> Path:
    """The pictures with a shorter side of so many pixels, as a camera or a web page has them."""
    folder.mkdir()
    for file in files:
        with Image.open(file) as small:
            scale = shorter / min(small.size)
            size = round(small.width * scale), round(small.height * scale)
            small.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(folder / file.name, quality=90)
    return folder


def captions() -> list[str]:
    """The captions of Flickr8k-1k, or none."""
    if not (FLICKR / "captions.csv").is_file():
        return []
    with (FLICKR / "captions.csv").open(encoding="utf-8") as file:
        return [row["caption"] for row in csv.DictReader(file)]


def with_captions(path: Path, folder: Path, texts: list[str]) -> Path:
    """A table of the pictures of a folder with five captions each."""
    with path.open("w", encoding="utf-8") as out:
        for k, file in enumerate(sorted(folder.iterdir())):
            for j in range(5):
                row = {"image": f"{folder.name}/{file.name}", "caption": texts[(5 * k + j) % len(texts)]}
                out.write(json.dumps(row) + "\n")
    return path


def dinov2(folder: Path, *, width: int, layers: int, heads: int) -> str:
    """A DINOv2 of patches of 14 for 224 pixels with its published processor; the spec that loads it."""
    import torch
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, image_size=224, patch_size=14
    )
    Dinov2Model(config).save_pretrained(folder)
    processor = {
        "image_processor_type": "BitImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": 256},
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
        "resample": 3,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "do_convert_rgb": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return f"hf:{folder}"


def vit(folder: Path, **sizes: Any) -> str:
    """A ViT for 224 pixels, by default ViT-Tiny/16, with its published processor; the spec that loads it."""
    import torch
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    tiny = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}
    ViTModel(ViTConfig(**(tiny | sizes)), add_pooling_layer=False).save_pretrained(folder)
    edge = sizes.get("image_size", 224)
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": edge, "width": edge},
        "resample": 3,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return f"hf:{folder}"


def batches(count: int, size: int) -> Iterator[range]:
    """Places of `count` rows, `size` at a time."""
    for first in range(0, count, size):
        yield range(first, min(count, first + size))
