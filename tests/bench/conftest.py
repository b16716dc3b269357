from __future__ import annotations

import pytest

from embedstore.documents import FitConfig
from embedstore.fit import fit_head
from embedstore.testing.stores import CLASSES, write_random_store
from embedstore.testing.texts import WordEncoder


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


@pytest.fixture
def encoder(store, monkeypatch):
    """Stands where `encoder_for_card` would find the text encoder of the head's card."""
    found = WordEncoder(store["words"].card)

    def find(card, spec, *, device):
        assert card == found.card
        return found

    monkeypatch.setattr("embedstore.bench.prompts.encoder_for_card", find)
    return found


@pytest.fixture(scope="session")
def classes():
    return list(CLASSES)
