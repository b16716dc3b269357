"""What benchmarks/store.py measures on: stores of random tokens; as a script, the memory of a stream."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embedstore.store import FeatureWriter, Storing, create_store, open_store, plan_feature
from embedstore.testing.stores import random_card, random_plan, random_tables

if TYPE_CHECKING:
    from embedstore.documents import FeatureHeader

CAPTIONS, LENGTHS, MAX_TOKENS, TEXT_WIDTH = 5, (8, 17), 77, 384
TEXTS = "5 captions of 8 to 16 tokens x 384 a picture, one of them taken"
DEFAULT_BATCH = 256  # of embedstore fit
_BASE_BYTES = 96 << 20


def base_rows(tokens: int, width: int) -> np.ndarray:
    """Distinct random rows, some 100 MB of them; a data set repeats them."""
    count = _BASE_BYTES // (2 * tokens * width)
    return np.random.default_rng(0).random((count, tokens, width), np.float32).astype(np.float16)


def rows_at(base: np.ndarray, first: int, stop: int) -> np.ndarray:
    """Rows `[first, stop)` of the data set."""
    low = first % len(base)
    if low + stop - first <= len(base):
        return base[low : low + stop - first]
    return base[np.arange(first, stop) % len(base)]


def plan_store(place: Path, rows: int, tokens: int, width: int) -> Path:
    """A store without features for pictures of that size; the sizes are kept beside it."""
    plan = random_plan(images=rows, captions=CAPTIONS)
    pictures, words = random_tables(images=rows, captions=CAPTIONS, classes=np.zeros(rows, np.int64))
    create_store(place, plan, images=[pictures], texts=[words])
    place.with_suffix(".sizes").write_text(f"{tokens} {width}", encoding="utf-8")
    return place


def image_header(store: Path, name: str, *, shard_rows: int | None = None) -> FeatureHeader:
    """The header of a feature of pictures."""
    tokens, width = map(int, store.with_suffix(".sizes").read_text(encoding="utf-8").split())
    card = random_card("image", width=width, tokens=tokens, prefix=0)
    if card.grid is not None and card.grid[0] * card.grid[1] != tokens:
        card = card.model_copy(update={"grid": (1, tokens)})
    return plan_feature(name=name, plan=open_store(store).plan, card=card, shard_rows=shard_rows)


def write_images(store: Path, name: str, base: np.ndarray, *, shard_rows: int | None = None) -> None:
    """A whole feature of the data set through our writer."""
    header = image_header(store, name, shard_rows=shard_rows)
    writer = FeatureWriter.open(store, header)
    pooled = np.zeros((header.shard_rows, header.card.pooled_width), np.float16)
    with Storing(writer) as storing:
        for unit in writer.missing_units():
            rows = header.unit_rows(unit)
            tokens = rows_at(base, rows.start, rows.stop)
            storing.put(unit, {"tokens": tokens, "pooled": pooled[: len(rows)]})
    writer.finish()


def write_texts(store: Path, name: str, captions: int) -> None:
    """Ragged random texts for all captions."""
    plan = open_store(store).plan
    header = plan_feature(name=name, plan=plan, card=random_card("text", width=TEXT_WIDTH, tokens=MAX_TOKENS))
    writer, random = FeatureWriter.open(store, header), np.random.default_rng(captions)
    for unit in writer.missing_units():
        rows = header.unit_rows(unit)
        lengths = random.integers(*LENGTHS, size=len(rows))
        tokens = random.random((int(lengths.sum()), TEXT_WIDTH), np.float32).astype(np.float16)
        pooled = np.zeros((len(rows), TEXT_WIDTH), np.float16)
        writer.write_unit(unit, {"tokens": tokens, "lengths": lengths, "pooled": pooled})
    writer.finish()


def many_shards(place: Path, shards: int) -> Path:
    """A store of one tiny picture a shard; written without flushes, which would take an hour."""
    flush, os.fsync = os.fsync, lambda handle: None  # noqa: ARG005 - the signature of fsync
    try:
        plan_store(place, shards, 1, 8)
        write_images(place, "vision", base_rows(64, 384).reshape(-1, 1, 8)[:4096], shard_rows=1)
    finally:
        os.fsync = flush
    return place


def anonymous_mb() -> float:
    """Resident anonymous memory of this process in MB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    if found is None:
        raise SystemExit("this system does not tell anonymous memory")
    return int(found[1]) / 1e3


def stream_growth(place: Path) -> float:
    """By how many MB an epoch of pairs grows this process, at the default settings."""
    from embedstore.stream.pairs import PairStream

    store = open_store(place)
    before = highest = anonymous_mb()
    stream = PairStream(
        store, image="vision", text="words", rows=np.arange(store.plan.images), batch_size=DEFAULT_BATCH
    )
    for epoch in range(2):
        with stream.epoch(epoch) as batches:
            for _ in batches:
                highest = max(highest, anonymous_mb())
    return highest - before


if __name__ == "__main__":
    sys.stdout.write(str(stream_growth(Path(sys.argv[1]))))
