"""Peak memory of a fit on random tokens, in a process of its own; `benchmarks/fit.py` runs it.

`python benchmarks/fit_memory.py STORE BATCH [MICRO]` fits one epoch and prints two numbers in MB: the
anonymous memory before the fit, and the most that there was. Mapped files are the system's cache, not ours.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from common import Row
from store_data import anonymous_mb

from embedstore.store import FeatureWriter, create_store, plan_feature
from embedstore.testing.stores import random_card, random_plan, random_tables

if TYPE_CHECKING:
    from embedstore.documents import FeatureHeader
    from embedstore.shapes import AnyArray

PICTURES, MICRO = 32768, 512
TOKENS, WIDTH, TEXT_TOKENS, TEXT_WIDTH, JOINT = 36, 192, 8, 96, 128


def write_store(path: Path) -> None:
    """Random float16 tokens of 32,768 pictures and a caption each, a shard at a time."""
    random = np.random.default_rng(0)
    plan = random_plan(images=PICTURES, captions=1)
    classes = random.integers(4, size=PICTURES)
    pictures, words = random_tables(images=PICTURES, captions=1, classes=classes)
    create_store(path, plan, images=[pictures], texts=[words])

    def noise(*shape: int) -> AnyArray:
        return random.standard_normal(shape, np.float32).astype(np.float16)

    def fill(header: FeatureHeader) -> None:
        writer = FeatureWriter.open(path, header)
        for unit in writer.missing_units():
            rows = len(header.unit_rows(unit))
            if header.name == "vision":
                part = {"tokens": noise(rows, TOKENS, WIDTH), "pooled": noise(rows, WIDTH)}
            else:
                lengths = np.full(rows, TEXT_TOKENS)
                tokens = noise(rows * TEXT_TOKENS, TEXT_WIDTH)
                part = {"tokens": tokens, "lengths": lengths, "pooled": noise(rows, TEXT_WIDTH)}
            writer.write_unit(unit, part)
        writer.finish()

    cards = {
        "vision": random_card("image", width=WIDTH, tokens=TOKENS, prefix=0),
        "words": random_card("text", width=TEXT_WIDTH, tokens=TEXT_TOKENS),
    }
    for name, card in cards.items():
        fill(plan_feature(name=name, plan=plan, card=card, policy="float16", shard_rows=4096))


def fit(store: str, batch: int, micro: int | None) -> tuple[float, float]:
    """Fit one epoch: MB before, and at most."""
    from embedstore.fit import fit_config, fit_head

    config = fit_config(
        image="vision", text="words", width=JOINT, epochs=1, batch_size=batch, micro_batch=micro
    )
    seen, done = [anonymous_mb()], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            seen.append(anonymous_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    with tempfile.TemporaryDirectory() as out:
        fit_head(store, config, Path(out) / "head", device="cpu")
    done.set()
    watcher.join()
    return seen[0], max(seen)


def measured(*arguments: object) -> tuple[float, float]:
    """`fit` in a new process."""
    command = [sys.executable, __file__, *map(str, arguments)]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(found[0]), float(found[1])


def large_batch_memory() -> Row:
    """A batch of 32,768 by micro-batches of 512 against a batch of 512."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        write_store(store)
        before, small = measured(store, MICRO)
        _, large = measured(store, PICTURES, MICRO)
    return Row(
        name="batch-32k-memory",
        ratio=(large - before) / (small - before),
        meaning="bytes ours/reference",
        reference="a fit of batch 512",
        detail=(
            f"{TOKENS} tokens x {WIDTH} -> {JOINT}, batch {PICTURES} by {MICRO}; at most "
            f"{large - before:.0f} MB beyond the libraries' {before:.0f}, reference {small - before:.0f} MB"
        ),
    )


if __name__ == "__main__":
    store, batch, *micro = sys.argv[1:]
    before, most = fit(store, int(batch), int(micro[0]) if micro else None)
    sys.stdout.write(f"{before} {most}\n")
