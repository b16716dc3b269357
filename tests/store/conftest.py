from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from embedstore.documents import QuarantinedRow
from embedstore.store import FeatureWriter, create_store, plan_feature
from embedstore.testing.stores import random_card, random_plan, random_tables

IMAGES, CAPTIONS, TOKENS, WIDTH, MAX_TOKENS, TEXT_WIDTH = 7, 2, 4, 3, 5, 2


def tree(root: Path) -> dict[str, str]:
    """Every file of a folder with the sha256 of its bytes."""
    files = (Path(here, name) for here, _, names in os.walk(root) for name in names)
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def run_whole(path: Path, seed: int = 0) -> None:
    """Plan a small store and write both its features, one row of each quarantined; what is done is kept."""
    plan = random_plan(images=IMAGES, captions=CAPTIONS)
    pictures, words = random_tables(images=IMAGES, captions=CAPTIONS, classes=np.arange(IMAGES) % 4)
    create_store(path, plan, images=[pictures], texts=[words])
    for header in headers(plan):
        write_missing(FeatureWriter.open(path, header), seed)


def headers(plan):
    image = random_card("image", width=WIDTH, tokens=TOKENS)
    text = random_card("text", width=TEXT_WIDTH, tokens=MAX_TOKENS)
    return (
        plan_feature(name="vision", plan=plan, card=image, shard_rows=4, thumbnails=16),
        plan_feature(name="words", plan=plan, card=text, shard_rows=8, policy="float32"),
    )


def write_missing(writer: FeatureWriter, seed: int = 0) -> None:
    for unit in writer.missing_units():
        arrays, quarantined, thumbnails = unit_values(writer.header, unit, seed)
        writer.write_unit(unit, arrays, quarantined=quarantined, thumbnails=thumbnails)
    writer.finish()


def unit_values(header, unit, seed=0):
    """Values that depend on seed and unit only, as `write_unit` takes them."""
    random = np.random.default_rng([seed, unit, header.max_tokens])
    rows = header.unit_rows(unit)
    bad = [2] if unit == 1 else []
    ident = (
        (lambda r: f"s{r:06d}")
        if header.table == "images"
        else (lambda r: f"s{r // CAPTIONS:06d}#{r % CAPTIONS}")
    )
    quarantined = [
        QuarantinedRow(row=rows.start + b, id=ident(rows.start + b), reason="truncated") for b in bad
    ]
    pooled = random.normal(size=(len(rows), header.card.pooled_width)).astype(np.float32)
    if header.table == "images":
        tokens = random.normal(size=(len(rows), TOKENS, WIDTH)).astype(np.float32)
        prefix = random.normal(size=(len(rows), 1, WIDTH)).astype(np.float32)
        thumbnails = [None if i in bad else bytes([unit, i]) for i in range(len(rows))]
        return {"tokens": tokens, "prefix": prefix, "pooled": pooled}, quarantined, thumbnails
    lengths = random.integers(0, MAX_TOKENS + 1, size=len(rows))
    lengths[bad] = 0
    tokens = random.normal(size=(int(lengths.sum()), TEXT_WIDTH)).astype(np.float32)
    return {"tokens": tokens, "lengths": lengths, "pooled": pooled}, quarantined, None


class Kit:
    """The helpers above, for tests that cannot import a conftest."""

    tree = staticmethod(tree)
    run_whole = staticmethod(run_whole)
    headers = staticmethod(headers)
    write_missing = staticmethod(write_missing)
    unit_values = staticmethod(unit_values)
    images, captions = IMAGES, CAPTIONS


@pytest.fixture(autouse=True)
def _quick_flush(monkeypatch):
    """No test here loses power, so flushes are passed but cost nothing; subprocesses really flush."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="session")
def kit() -> type[Kit]:
    return Kit


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A whole small store."""
    run_whole(tmp_path / "store")
    return tmp_path / "store"
