from __future__ import annotations

import numpy as np
import pytest
import torch

from embedstore.documents import FitConfig
from embedstore.encoders.base import TextBatch
from embedstore.fit import fit_head
from embedstore.testing.stores import CLASSES, write_random_store


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return write_random_store(
        tmp_path_factory.mktemp("bench") / "store", images=400, captions=3, seed=5, noise=0.2
    )


@pytest.fixture(scope="session")
def head_dir(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "head"
    config = FitConfig(
        image="vision",
        text="words",
        split="train",
        val_split="val",
        width=8,
        epochs=15,
        batch_size=64,
        lr=5e-3,
        dropout=0,
    )
    fit_head(store, config, out, device="cpu")
    return out


class WordEncoder:
    """A text encoder whose tokens depend on each word only: numbers to compare with, not meanings."""

    def __init__(self, card) -> None:
        self.card = card
        self.seen: list[str] = []

    def prepare(self, texts):
        self.seen += texts
        limit = self.card.tokenizer.max_length
        ids = [np.array([sum(map(ord, word)) for word in text.split()], dtype=np.int64) for text in texts]
        return [i[:limit] for i in ids], [len(i) > limit for i in ids]

    def tokens(self, ids):
        return np.stack([np.random.default_rng(i).normal(size=self.card.width) for i in ids]).astype("f4")

    def encode(self, ids):
        longest = max(map(len, ids))
        tokens = torch.full((len(ids), longest, self.card.width), torch.nan)
        mask = torch.zeros(len(ids), longest, dtype=torch.bool)
        for row, one in enumerate(ids):
            tokens[row, : len(one)] = torch.from_numpy(self.tokens(one))
            mask[row, : len(one)] = True
        return TextBatch(tokens=tokens, mask=mask, pooled=tokens[:, 0])


@pytest.fixture
def encoder(store, monkeypatch):
    """Stands where `encoder_for_card` would find the text encoder of the head's card."""
    found = WordEncoder(store["words"].card)

    def find(card, spec, *, device):
        assert card == found.card
        return found

    monkeypatch.setattr("embedstore.bench.zeroshot.encoder_for_card", find)
    return found


@pytest.fixture(scope="session")
def classes():
    return list(CLASSES)
