"""What benchmarks/bench.py measures on; as a script, the peak memory of a retrieval from a store.

`python benchmarks/bench_data.py STORE` measures retrieval between the pooled features of a store and prints
the most memory that the process ever held, in MB. `python benchmarks/bench_data.py STORE IMAGES` makes such a
store, in a run of its own, since that takes memory too.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from embedstore.documents import EncoderCard
from embedstore.store import FeatureWriter, create_store, plan_feature
from embedstore.testing.stores import random_plan, random_tables

if TYPE_CHECKING:
    from embedstore.shapes import Float32Array

WIDTH, LATENT, CAPTIONS = 1024, 64, 5
_ROWS = 1 << 14


def embeddings(images: int) -> tuple[Float32Array, Float32Array]:
    """Unit vectors of images and of their captions around shared latent vectors: half are found first."""
    random = np.random.default_rng(0)
    latent = random.standard_normal((images, LATENT), np.float32)
    wide = random.standard_normal((LATENT, WIDTH), np.float32)
    return unit(latent @ wide, random, 4.0), _captions(latent, wide, random)


def _captions(latent: Float32Array, wide: Float32Array, random: np.random.Generator) -> Float32Array:
    texts = np.empty((len(latent) * CAPTIONS, WIDTH), np.float32)
    for start in range(0, len(texts), _ROWS):
        rows = np.arange(start, min(start + _ROWS, len(texts)))
        meant = latent[rows // CAPTIONS]
        meant = meant + 1.7 * random.standard_normal(meant.shape, np.float32)
        texts[rows] = unit(meant @ wide, random, 4.0)
    return texts


def unit(values: Float32Array, random: np.random.Generator, noise: float) -> Float32Array:
    """With so much normal noise, and of length 1."""
    noisy = values + noise * random.standard_normal(values.shape, np.float32)
    found: Float32Array = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
    return found


def write_store(path: Path, images: Float32Array, texts: Float32Array | None = None) -> None:
    """A store with these pooled embeddings in float16 as the features "seen" and, with texts, "said"."""
    captions = 0 if texts is None else len(texts) // len(images)
    plan = random_plan(images=len(images), captions=captions)
    classes = np.random.default_rng(1).integers(4, size=len(images))
    pictures, words = random_tables(images=len(images), captions=captions, classes=classes)
    create_store(path, plan, images=[pictures], texts=[words])
    for name, values in (("seen", images), ("said", texts)):
        if values is None:
            continue
        header = plan_feature(name=name, plan=plan, card=_card("image" if name == "seen" else "text"))
        writer = FeatureWriter.open(path, header)
        for unit_number in writer.missing_units():
            rows = header.unit_rows(unit_number)
            writer.write_unit(unit_number, {"pooled": values[rows.start : rows.stop].astype(np.float16)})
        writer.finish()


def _card(modality: Literal["image", "text"]) -> EncoderCard:
    """Of embeddings that came without tokens."""
    return EncoderCard(
        modality=modality,
        library="imported",
        architecture="Random",
        model=f"random-{modality}",
        weights_sha256="0" * 64,
        layer=None,
        final_norm=None,
        width=WIDTH,
        pooled_width=WIDTH,
        pooling="random",
        versions={},
    )


def peak_mb() -> float:
    """The most memory that this process ever held, mapped files included, in MB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    if found is None:
        raise SystemExit("this system does not tell the peak of a process")
    return int(found[1]) / 1e3


def measure(store: str) -> None:
    """Print the peak of this process after a retrieval."""
    from embedstore.bench import bench_retrieval

    report = bench_retrieval(store, image="seen", text="said", split=None, device="cpu")
    sys.stderr.write(f"recall@1 {report.metrics['text_to_image']['recall@1'].value:.3f}\n")
    sys.stdout.write(str(peak_mb()))


if __name__ == "__main__":
    place, *images = sys.argv[1:]
    if images:
        write_store(Path(place), *embeddings(int(images[0])))
    else:
        measure(place)
