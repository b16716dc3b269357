"""Every head through the public command: configuration, fit, load, bench; pooled texts; what is refused."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from embedstore.documents import FitConfig
from embedstore.encode import recode_feature
from embedstore.errors import HeadError, UsageError
from embedstore.fit import fit_config, fit_head
from embedstore.fit.parts import loss_of_parts
from embedstore.fit.record import head_record
from embedstore.fit.token_pairs import token_pairs
from embedstore.heads.base import build_head
from embedstore.losses.clip import ClipLoss, clip_loss
from embedstore.model import load_head
from embedstore.store import open_store
from embedstore.store.selection import split_rows
from embedstore.stream.pairs import PairStream
from embedstore.testing.heads import head_config
from embedstore.testing.stores import write_random_store
from embedstore_cli.options import settings

CONFIGS = Path(__file__).parents[2] / "configs"
TABLE_1 = sorted(CONFIGS.glob("freeze-align-table-1-row-*.toml"))
HEADS = {
    "token": ["--text-pooling", "pooled"],
    "sail": ["--dropout", "0"],
    "dinotxt": ["--set", "head_width=4"],
    "dalip": ["--set", "reduced=8", "--set", "lambda1=0.5"],
    "dalip-bdc": ["--set", "reduced=8", "--set", "second=bdc", "--set", "score=first"],
    "dalip-mp": ["--set", "reduced=8", "--set", "second=mp", "--set", "convention=dalip"],
    "dalip-kspd": ["--set", "reduced=8", "--set", "second=kspd", "--set", "lambda1=0.3"],
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_random_store(tmp_path_factory.mktemp("heads") / "store", images=100)


def features(store):
    return [store.path, "--image", "vision", "--text", "words", "--split", "train", "--device", "cpu"]


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_fitted_loaded_and_measured(run, store, tmp_path, name):
    out = tmp_path / "head"
    sizes = ["--width", "16", "--epochs", "10", "--batch-size", "20", "--lr", "3e-3"]
    code, _, err = run(
        "fit", *features(store), "--out", out, "--head", name.split("-")[0], *sizes, *HEADS[name]
    )
    assert code == 0, err
    code, report, err = run("bench", "retrieval", store.path, "--head", out, "--json", "--device", "cpu")
    assert code == 0, err
    recall = json.loads(report)["metrics"]["text_to_image"]["recall@5"]["value"]
    # Ten pictures: a blind guess has 0.5.
    assert recall > 0.7
    head = load_head(out)
    rows = split_rows(store, "test")
    v, u = head.embed_images(store["vision"], rows), head.embed_texts(store["words"], rows * 2)
    assert v.shape == u.shape
    np.testing.assert_allclose(np.linalg.norm(v, axis=1), 1, atol=1e-4)
    kept = set(type(head.module).options_type.model_fields)
    assert set(head.config.options) == kept, "every option is written down, defaults too"


@pytest.mark.parametrize("file", TABLE_1, ids=lambda f: f.stem[-1])
def test_every_row_of_table_1_is_a_file_that_fits(run, store, tmp_path, file):
    out = tmp_path / "head"
    options = ["--width", "12", "--epochs", "1", "--batch-size", "20"]
    code, _, err = run("fit", *features(store), "--out", out, "--config", file, *options)
    assert code == 0, err
    found, row = load_head(out).config, tomllib.loads(file.read_text(encoding="utf-8"))
    for side in ("image_local", "image_cls", "text_token", "text_global"):
        assert getattr(found, side) == row[side]


def test_table_1_is_whole():
    sides = ("image_local", "image_cls", "text_token", "text_global")
    rows = [tuple(tomllib.loads(f.read_text(encoding="utf-8"))[s] for s in sides) for f in TABLE_1]
    assert rows == [
        ("mlp", "identity", "identity", "identity"),
        ("token", "identity", "identity", "identity"),
        ("token", "identity", "identity", "mlp"),
        ("token", "identity", "token", "identity"),
        ("token", "identity", "token", "mlp"),
        ("identity", "token", "token", "mlp"),
        ("token", "token", "token", "mlp"),
    ]


def test_options_of_a_file_and_of_the_command_are_joined(run, store, tmp_path):
    file = tmp_path / "fit.toml"
    file.write_text(
        'head = "dalip"\n[options]\nreduced = 6\nlambda1 = 0.3\nsecond = "bdc"\n', encoding="utf-8"
    )
    own = ["--width", "8", "--epochs", "1", "--set", "lambda1=0.6"]
    code, _, err = run("fit", *features(store), "--out", tmp_path / "head", "--config", file, *own)
    assert code == 0, err
    options = load_head(tmp_path / "head").config.options
    assert (options["reduced"], options["lambda1"], options["second"]) == (6, 0.6, "bdc")
    assert (options["heads"], options["text_anchor"]) == (4, "auto")


def test_settings_are_read_as_toml_has_them_and_else_as_words():
    pairs = ["a=4", "b=0.4", "c=true", "d=mbdc", 'e="x y"', "f=", "g=a=b", "h=[1]"]
    assert settings(pairs) == {
        "a": 4, "b": 0.4, "c": True, "d": "mbdc", "e": "x y", "f": "", "g": "a=b", "h": "[1]",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--head", "dalip", "--set", "lamda1=0.4"], "did you mean 'lambda1'"),
        (["--head", "dalip", "--set", "lambda1"], "NAME=VALUE"),
        (["--head", "sail", "--image-local", "mlp"], "'sail' has no image_local"),
        (["--head", "dinotxt", "--image-pooling", "max"], "'dinotxt' has no image_pooling"),
        (["--head", "dalip", "--text-pooling", "pooled"], "a pooled text has no second order"),
        (["--head", "dalip", "--width", "10"], "divisor of 10"),
        (["--text-pooling", "last"], "'mean' or 'pooled'"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(run, store, tmp_path, options, words):
    code, _, err = run("fit", *features(store), "--out", tmp_path / "head", *options)
    assert code in {1, 2}
    assert words in err
    assert not (tmp_path / "head").exists()


def test_pooled_texts_are_what_is_stored_as_pooled(store, tmp_path):
    small = {"image": "vision", "text": "words", "split": "train", "width": 12, "epochs": 1, "batch_size": 20}
    sides = {"text_pooling": "pooled", "text_token": "identity", "text_global": "identity"}
    fit_head(store, fit_config(**small, **sides), tmp_path / "head", device="cpu")
    head = load_head(tmp_path / "head")
    rows = np.array([3, 0, 7])
    pooled = store["words"].gather("pooled", rows).astype(np.float32)
    wanted = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    np.testing.assert_allclose(head.embed_texts(store["words"], rows), wanted, atol=1e-6)
    fresh = head.embed_encoded(
        torch.zeros(3, 2, 12), torch.ones(3, 2, dtype=torch.bool), torch.tensor(pooled)
    )
    np.testing.assert_allclose(fresh.numpy(), wanted, atol=1e-6)
    tokens = store["words"].text_tokens(rows)
    assert set(store["words"].only_pooled().arrays) == {"pooled", "lengths", "status"}
    assert len(tokens.offsets) == 4, "the feature itself still has its tokens"


def test_sources_of_tokens_change_nothing_for_pooled_texts(store, tmp_path):
    config = FitConfig(
        head="sail", image="vision", text="words", split="train", width=8, epochs=2, batch_size=20
    )
    for name, cached in (("a", "no"), ("b", "yes")):
        fit_head(store, config, tmp_path / name, device="cpu", cache_on_device=cached)
    weights = [(tmp_path / n / "head.safetensors").read_bytes() for n in "ab"]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("head", ["token", "sail", "dinotxt", "dalip"])
def test_an_encoder_with_registers_and_no_cls(tmp_path, head):
    store = write_random_store(tmp_path / "store", images=20, prefix=2, registers=2)
    options = {"dinotxt": {"head_width": 4}, "dalip": {"reduced": 4}}.get(head, {})
    config = FitConfig(head=head, image="vision", text="words", width=12, epochs=1, options=options)
    for name, cached in (("a", "no"), ("b", "yes")):
        fit_head(store, config, tmp_path / name, device="cpu", cache_on_device=cached)
    fitted, rows = load_head(tmp_path / "a"), np.arange(4)
    of = {
        name: torch.from_numpy(store["vision"].decoded(name, rows)) for name in ("tokens", "prefix", "pooled")
    }
    wanted = fitted.module.embed_image(of["tokens"], of["prefix"], of["pooled"])
    np.testing.assert_allclose(fitted.embed_images(store["vision"], rows), wanted, atol=1e-5)
    weights = [(tmp_path / n / "head.safetensors").read_bytes() for n in "ab"]
    assert weights[0] == weights[1]


def test_heads_that_need_tokens_say_so(store, tmp_path):
    only = store["vision"].only_pooled()

    class Pooled(type(store)):
        def __getitem__(self, name):
            return only if name == "vision" else super().__getitem__(name)

    pooled = Pooled.__new__(Pooled)
    pooled.__dict__.update(store.__dict__)
    for head in ("sail", "dinotxt", "dalip"):
        config = FitConfig(head=head, image="vision", text="words", epochs=1)
        with pytest.raises(HeadError, match=f"{head!r} needs tokens"):
            fit_head(pooled, config, tmp_path / "head", device="cpu")
    config = FitConfig(loss="sparc", image="vision", text="words", epochs=1)
    with pytest.raises(HeadError, match="'sparc' compares tokens, and this feature has only pooled"):
        fit_head(pooled, config, tmp_path / "head", device="cpu")


def test_a_loss_of_tokens_gets_the_shares_of_merged_ones(store, tmp_path):
    recode_feature(store.path, "vision", policy="merge-4", name="merged")
    opened = open_store(store.path)
    config = FitConfig(loss="sparc", image="merged", text="words", epochs=2, batch_size=20, width=16)
    assert fit_head(opened, config, tmp_path / "head", device="cpu").loss > 0
    stream = PairStream(opened, image="merged", text="words", rows=np.arange(100), batch_size=20, captions=2)
    record = head_record(opened, config)
    with stream.epoch(0) as batches:
        batch = next(iter(batches))
        found = token_pairs(build_head(record).eval(), record, batch)
    rows, columns = opened["vision"].card.grid
    assert found.count == rows * columns
    assert found.patches.shape == (len(found.shares), 4, 16)
    torch.testing.assert_close(found.shares.sum(1), torch.ones(len(found.shares)))
    assert found.words.shape == (found.offsets[-1], 16)
    assert found.owner.tolist() == batch.owner.tolist()


def test_the_loss_of_parts_is_the_weighted_sum_with_one_temperature():
    torch.manual_seed(0)
    head = build_head(head_config(head="dalip", width=12, options={"reduced": 4, "lambda1": 0.3})).train()
    image = head.embed_image(torch.randn(5, 9, 16), torch.randn(5, 1, 16))
    text = head.embed_text(torch.randn(10, 12), torch.arange(0, 11, 2))
    loss = ClipLoss(temperature=0.1)
    found = loss_of_parts(loss, head.parts, image, text)
    first, second = (
        clip_loss(
            torch.nn.functional.normalize(image[:, cut], dim=-1),
            torch.nn.functional.normalize(text[:, cut], dim=-1),
            0.1,
        )
        for cut in (slice(12), slice(12, None))
    )
    torch.testing.assert_close(found, 0.3 * first + 0.7 * second)
    torch.autograd.backward(found)
    assert loss.temperature.grad is not None
    torch.testing.assert_close(loss_of_parts(loss, (), image, text), clip_loss(image, text, 0.1))


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("sail", {"width": 12, "batch_size": 20, "micro_batch": 6}),
        ("dalip", {"width": 12, "batch_size": 20, "options": {"reduced": 6}}),
        ("dinotxt", {"width": 32, "batch_size": 20, "options": {"head_width": 4}}),
    ],
)
def test_the_file_of_each_head_fits(store, tmp_path, name, sizes):
    small = {"image": "vision", "text": "words", "split": "train", "epochs": 1, **sizes}
    result = fit_head(store, fit_config(CONFIGS / f"{name}.toml", **small), tmp_path / "head", device="cpu")
    assert result.head.head == name
    assert np.isfinite(result.loss)


def test_a_loss_of_tokens_is_of_one_process(store, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    config = FitConfig(loss="sparc", image="vision", text="words", epochs=1)
    with pytest.raises(UsageError, match=r"processes do not share[\s\S]*2 processes"):
        fit_head(store, config, tmp_path / "head", device="cpu")
