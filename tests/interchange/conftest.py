"""Embeddings as other people keep them, and stores to compare with."""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedstore.interchange import ImportOptions, import_feature
from embedstore.testing.stores import write_random_store

ROWS, WIDTH = 70, 12


@pytest.fixture(autouse=True)
def _quick_flush(monkeypatch):
    """No test here loses power, so flushes are passed but cost nothing."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def numbers():
    """`(70, 12)` float16."""
    return np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float16)


@pytest.fixture
def ids():
    return [f"s{i:06d}" for i in range(ROWS)]


@pytest.fixture
def id_list(tmp_path, ids):
    path = tmp_path / "ids.txt"
    path.write_text("\n".join(ids) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def random_store(tmp_path):
    """70 pictures s000000 ... with two captions each, features vision (9 tokens, 16 wide) and words."""
    return write_random_store(tmp_path / "random.store", images=ROWS, captions=2)


@pytest.fixture
def bring(tmp_path):
    """Import `source` into a store of this test; gives the summary."""

    def call(source, *, store="new.store", name="theirs", **options):
        chosen = ImportOptions(**{"model": "openai/clip-vit-base-patch32", **options})
        return import_feature(str(source), tmp_path / store, name=name, options=chosen)

    return call


def write_clip_folder(root, parts=(30, 25, 15), *, width=WIDTH, texts=True, seed=0, digits=2, **columns):
    """What clip-retrieval writes: parts aligned by row; gives the image and the text embeddings."""
    random = np.random.default_rng(seed)
    names = ["img_emb", "text_emb"] if texts else ["img_emb"]
    made = {name: random.normal(size=(sum(parts), width)).astype(np.float16) for name in names}
    for name in [*names, "metadata"]:
        (root / name).mkdir(parents=True)
    at = 0
    for k, count in enumerate(parts):
        for name in names:
            np.save(root / name / f"{name}_{k:0{digits}d}.npy", made[name][at : at + count])
        lines = range(at, at + count)
        table = {
            "image_path": [f"s{i:06d}" for i in lines],
            "caption": [f"a caption for {i}" for i in lines],
            "url": [f"https://example.org/{i}.jpg" for i in lines],
        }
        table |= {column: values[at : at + count] for column, values in columns.items()}
        pq.write_table(pa.table(table), root / "metadata" / f"metadata_{k:0{digits}d}.parquet")
        at += count
    return made["img_emb"], made.get("text_emb")


@pytest.fixture
def clip_folder():
    return write_clip_folder
