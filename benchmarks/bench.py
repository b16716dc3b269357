"""Bench's tasks against what they cannot avoid: the bare matrix products, and reading the same bytes.

Vectors are synthetic, 1,024 wide: five captions an image around shared latent vectors, so that about half are
found first, as in real retrieval. Every side takes the same blocks of the same arrays with the same threads.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from bench_data import CAPTIONS, WIDTH, embeddings, unit, write_store
from common import Row, main, turns

from embedstore.bench import bench_retrieval
from embedstore.index.exact import BLOCK, ranks_both_ways, ranks_of_positives, top_k
from embedstore.metrics.recall import Positives
from embedstore.model.stored import stored_vectors
from embedstore.store import open_store

if TYPE_CHECKING:
    from embedstore.shapes import Float32Array

CLASSES = 1000


def products(left: Float32Array, right: Float32Array) -> None:
    """The bare products of all blocks, each once, into one buffer."""
    a, b = torch.from_numpy(left), torch.from_numpy(right)
    room = torch.empty(BLOCK * BLOCK)
    for i in range(0, len(a), BLOCK):
        for j in range(0, len(b), BLOCK):
            x, y = a[i : i + BLOCK], b[j : j + BLOCK]
            torch.mm(x, y.T, out=room[: len(x) * len(y)].view(len(x), len(y)))


def measure(quick: bool) -> list[Row]:  # noqa: FBT001 - the one argument of every benchmark
    """All claims, at the sizes that `quick` chooses."""
    with tempfile.TemporaryDirectory() as place:
        rows = retrieval(Path(place) / "pairs", 5_000 if quick else 25_000, repeats=3)
        return [*rows, *zeroshot(Path(place) / "images", 10_000 if quick else 50_000)]


def retrieval(place: Path, count: int, *, repeats: int) -> list[Row]:
    """Ranks both ways of vectors in memory; the whole task from a store; its memory, in a process apart."""
    images, texts = embeddings(count)
    owner = np.repeat(np.arange(count), CAPTIONS)
    size = f"{count} images x {len(texts)} captions x {WIDTH}; {torch.get_num_threads()} threads"
    bare = turns(
        lambda: ranks_both_ways(images, texts, owner), lambda: products(images, texts), repeats, warmup=0
    )
    write_store(place, images, texts)
    whole = turns(
        lambda: bench_retrieval(place, image="seen", text="said", split=None, device="cpu"),
        lambda: products(images, texts),
        1,
        warmup=0,
    )
    script = Path(__file__).parent / "bench_data.py"
    peak = subprocess.run(
        [sys.executable, str(script), str(place)], check=True, stdout=subprocess.PIPE, text=True
    )
    return [
        Row(
            name="retrieval-vs-matmul",
            ratio=bare.time,
            meaning="time ours/reference",
            reference="the bare blocked products, each once for both directions",
            detail=f"exact ranks both ways, {size}; {bare.text}",
        ),
        Row(
            name="retrieval-task-vs-matmul",
            ratio=whole.time,
            meaning="time ours/reference",
            reference="the same",
            detail=f"the task from a store of pooled features, reading and intervals included; {whole.text}",
        ),
        Row(
            name="retrieval-rss-mb",
            ratio=float(peak.stdout),
            meaning="MB",
            reference=f"{(images.nbytes + texts.nbytes) / 1e6:.0f} MB of embeddings in float32",
            detail=f"the most that a process of its own held, libraries included; {size}",
        ),
    ]


def zeroshot(place: Path, count: int) -> list[Row]:
    """Images of a store of pooled features against 1,000 classes: the first one, and the rank of the own."""
    random = np.random.default_rng(2)
    classes = unit(np.zeros((CLASSES, WIDTH), np.float32), random, 1.0)
    labels = random.integers(CLASSES, size=count)
    images = unit(3 * classes[labels], random, 1 / 12)
    write_store(place, images)
    feature, rows = open_store(place)["seen"], np.arange(count)
    files = [file for file in (place / "features" / "seen" / "pooled").rglob("*") if file.is_file()]

    def task() -> None:
        found = stored_vectors(feature, rows)
        wrong = ranks_of_positives(found, classes, Positives.single(labels)) > 1
        top_k(found[wrong], classes, 1)

    def read() -> None:
        for file in files:
            file.read_bytes()

    def read_and_multiply() -> None:
        read()
        products(images, classes)

    size = f"{count} images x {CLASSES} classes x {WIDTH}, float16, warm; {torch.get_num_threads()} threads"
    found = []
    for name, reference, said in (
        ("zeroshot-vs-read", read, "plain reads of the same files"),
        ("zeroshot-vs-matmul", read_and_multiply, "these reads and the bare product"),
    ):
        timed = turns(task, reference, 3)
        found.append(
            Row(
                name=name,
                ratio=timed.time,
                meaning="time ours/reference",
                reference=said,
                detail=f"{size}; {timed.text}",
            )
        )
    return found


if __name__ == "__main__":
    main(measure, description=__doc__.splitlines()[0])
