from __future__ import annotations

import json
from pathlib import Path

import pytest

from embedstore.documents import EncoderCard, TokenizerCard
from embedstore.encoders import memory, recall, remember


@pytest.fixture
def card():
    return EncoderCard(
        modality="text",
        library="transformers",
        architecture="BertModel",
        model="mine",
        weights_sha256="0" * 64,
        final_norm=True,
        width=8,
        pooled_width=8,
        pooling="mean",
        tokenizer=TokenizerCard(class_name="T", sha256="1" * 64, max_length=16),
        versions={"torch": "2"},
    )


def test_what_was_remembered_is_recalled(card, own_home):
    assert recall(card) is None
    remember(card, "hf:org/mine")
    assert recall(card) == "hf:org/mine"
    remember(card, "hf:org/newer")
    assert recall(card) == "hf:org/newer"
    assert [path.name for path in own_home.iterdir()] == ["encoders.json"]


def test_name_versions_and_device_do_not_matter_but_weights_and_length_do(card, own_home):
    remember(card, "hf:org/mine")
    same = {"model": "other", "versions": {}, "device_kind": "cuda", "compute_dtype": "float16"}
    assert recall(card.model_copy(update=same)) == "hf:org/mine"
    assert recall(card.model_copy(update={"weights_sha256": "2" * 64})) is None
    longer = card.tokenizer.model_copy(update={"max_length": 32})
    assert recall(card.model_copy(update={"tokenizer": longer})) is None


def test_a_folder_is_remembered_by_its_absolute_path(card, own_home, tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    remember(card, "hf:model?max_length=16")
    assert recall(card) == f"hf:{tmp_path / 'model'}?max_length=16"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', "\udcff"])
def test_a_broken_file_is_an_empty_memory(card, own_home, content):
    own_home.mkdir()
    (own_home / "encoders.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert recall(card) is None
    remember(card, "hf:org/mine")
    assert recall(card) == "hf:org/mine"
    json.loads((own_home / "encoders.json").read_text())


def test_a_memory_that_cannot_be_written_fails_nothing(card, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EMBEDSTORE_HOME", str(tmp_path / "file" / "below"))
    remember(card, "hf:org/mine")
    assert recall(card) is None


def test_home_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("EMBEDSTORE_HOME", raising=False)
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert memory.home() == tmp_path / "embedstore"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert memory.home() == Path.home() / ".cache" / "embedstore"
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory.home() == Path.home() / "Library" / "Caches" / "embedstore"
