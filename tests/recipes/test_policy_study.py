from __future__ import annotations

import json
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from embedstore.documents import FitConfig, PolicyStudy
from embedstore.encode import recode_feature
from embedstore.errors import EmbedstoreError, UsageError
from embedstore.recipes.policy_chart import policy_chart
from embedstore.recipes.policy_measures import cosine_error, read_rate, stored_bytes
from embedstore.recipes.policy_study import _Hits, study_policies, working_copy
from embedstore.store import open_store
from embedstore.testing.stores import write_random_store
from embedstore.testing.texts import WordEncoder

CONFIG = FitConfig(
    image="vision", text="words", split="train", width=8, epochs=4, batch_size=64, lr=5e-3, dropout=0
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_random_store(tmp_path_factory.mktemp("study") / "store", images=200, captions=2, seed=5)


@pytest.fixture(scope="module")
def study(store):
    with pytest.MonkeyPatch.context() as patch:
        encoder = WordEncoder(store["words"].card)
        patch.setattr("embedstore.bench.prompts.encoder_for_card", lambda *_, **__: encoder)
        return study_policies(
            store.path, CONFIG, policies=["int8", "cls+mean", "pq-99"], seeds=2, device="cpu"
        )


def test_each_policy_stands_beside_the_base(study, store) -> None:
    base, int8, mean = study.policies
    assert [p.policy for p in study.policies] == [store["vision"].header.policy, "int8", "cls+mean"]
    assert base.bytes == stored_bytes(store["vision"]) > int8.bytes > mean.bytes
    assert (base.recall.change, base.cosine_error) == (None, 0)
    assert 0 < int8.cosine_error < 1e-3
    assert (int8.cosine_of, mean.cosine_of, mean.tokens[0]) == ("tokens", "means", 1)
    for policy in (int8, mean):
        for score, own in ((policy.recall, base.recall), (policy.top_1, base.top_1)):
            assert score.value.value == pytest.approx(np.mean(score.seeds))
            assert score.change.value == pytest.approx(score.value.value - own.value.value)
            assert score.change.low <= score.change.value <= score.change.high
    # Eight bits a value are all but the same tokens, and the same seeds begin the same heads.
    assert abs(int8.recall.change.value) < 0.1
    assert base.recall.value.value > 0.15


def test_a_policy_that_does_not_fit_is_left_out_and_the_store_stays_as_it_was(study, store) -> None:
    assert list(study.left_out) == ["pq-99"]
    assert open_store(store.path).features() == store.features()
    assert [p.name for p in store.path.parent.iterdir() if p.name.startswith(".")] == []


def test_a_text_encoder_that_was_asked_for_and_is_none_is_refused(store) -> None:
    with pytest.raises(EmbedstoreError, match="nowhere"):
        study_policies(
            store.path, CONFIG, policies=["int8"], seeds=1, text_encoder="hf:nowhere", device="cpu"
        )


def test_without_labels_a_text_encoder_has_nothing_to_do(tmp_path, monkeypatch) -> None:
    bare = write_random_store(tmp_path / "store", images=60, captions=2, seed=5)
    encoder = WordEncoder(bare["words"].card)
    monkeypatch.setattr("embedstore.bench.prompts.encoder_for_card", lambda *_, **__: encoder)
    monkeypatch.setattr("embedstore.bench.setting.load_text_encoder", lambda *_, **__: encoder)
    refusal = UsageError("no image of the store has a label")

    def no_labels(*_, **__):
        raise refusal

    monkeypatch.setattr("embedstore.recipes.policy_study.measure_zeroshot", no_labels)
    config = CONFIG.model_copy(update={"epochs": 1})
    found = study_policies(
        bare.path, config, policies=["int8"], seeds=1, text_encoder="python:any:Thing", device="cpu"
    )
    assert found.notes[-1] == "no zero-shot top-1: no image of the store has a label"


def test_the_study_reads_back_and_says_what_it_depends_on(study, store) -> None:
    assert PolicyStudy.from_json(study.to_json(), where="here") == study
    assert (study.images, study.texts, study.split, study.seeds) == (20, 40, "test", 2)
    assert study.store_fingerprint == store.fingerprint
    assert study.config == CONFIG


def test_the_chart_has_a_dot_a_policy_and_bytes_by_their_logarithm(study) -> None:
    drawn = ET.fromstring(policy_chart(study))  # noqa: S314 - written here
    name = "{http://www.w3.org/2000/svg}"
    assert len(list(drawn.iter(f"{name}circle"))) == 2 * 3
    words = [node.text for node in drawn.iter(f"{name}text")]
    assert {"int8", "cls+mean", "bytes a picture", "zero-shot top-1, %"} <= set(words)
    at = [float(dot.get("cx")) for dot in list(drawn.iter(f"{name}circle"))[:3]]
    sizes = [np.log10(p.bytes) for p in study.policies]
    assert (at[0] - at[1]) / (at[1] - at[2]) == pytest.approx(
        (sizes[0] - sizes[1]) / (sizes[1] - sizes[2]), abs=0.02
    )


def test_places_that_cannot_be_copied_are_refused(store) -> None:
    with pytest.raises(UsageError, match="works on a folder of this machine"):
        study_policies("s3://bucket/store", CONFIG, seeds=1)
    with pytest.raises(UsageError, match="works on one store"):
        study_policies(f"{store.path}+{store.path}", CONFIG, seeds=1)


def test_bad_policies_seeds_and_features_are_refused_before_a_head_is_fitted(store, monkeypatch) -> None:
    monkeypatch.setattr("embedstore.recipes.policy_study.fit_head", None)
    with pytest.raises(UsageError, match=r"--policies: [\s\S]*best"):
        study_policies(store.path, CONFIG, policies=["int8", "best"])
    with pytest.raises(UsageError, match="no head is fitted"):
        study_policies(store.path, CONFIG, seeds=0)
    with working_copy(store, ["vision", "words"]) as copy:
        recode_feature(copy, "vision", policy="cls+mean", name="few")
        few = CONFIG.model_copy(update={"image": "few"})
        with pytest.raises(UsageError, match=r"few: the tokens of this feature are shrunk already"):
            study_policies(copy, few)


def test_a_working_copy_shares_the_files_and_leaves_with_what_was_made_in_it(store) -> None:
    with working_copy(store, ["vision", "words"]) as copy:
        inner = open_store(copy)
        assert inner.fingerprint == store.fingerprint
        assert inner["vision"].manifest == store["vision"].manifest
        recode_feature(copy, "vision", policy="int8", name="recoded")
        assert "recoded" in open_store(copy).features()
        files = [p.relative_to(copy) for p in copy.rglob("*") if p.is_file() and "recoded" not in str(p)]
        assert files
        assert all((copy / file).samefile(store.path / file) for file in files)
    assert not copy.exists()
    assert open_store(store.path).features() == store.features()


def test_measures_of_one_feature(store) -> None:
    vision = store["vision"]
    assert cosine_error(vision, vision) == (pytest.approx(0, abs=1e-6), "tokens")
    assert read_rate(vision) > 0


class _Tokens:
    """A feature of these tokens `(n, t, d)`; all rows could be read."""

    name, arrays = "some", ()

    def __init__(self, tokens):
        self._tokens = np.array(tokens, np.float32)

    def status(self):
        return np.zeros(len(self._tokens), np.uint8)

    def decoded(self, _, rows):
        return self._tokens[rows]


def test_tokens_without_a_direction_do_not_count_and_those_that_lose_it_do() -> None:
    plain = _Tokens([[[3, 4], [0, 0]], [[0, 1], [1, 0]]])
    assert cosine_error(plain, plain) == (pytest.approx(0, abs=1e-7), "tokens")
    lost = _Tokens([[[3, 4], [0, 0]], [[0, 0], [1, 0]]])
    assert cosine_error(plain, lost) == (pytest.approx(1 / 3), "tokens")
    nothing = _Tokens(np.zeros((2, 2, 2)))
    with pytest.raises(UsageError, match="no token that was read"):
        cosine_error(nothing, plain)


def test_the_feature_may_have_the_name_that_recoded_ones_get(store, monkeypatch) -> None:
    facts = SimpleNamespace(
        notes=(), images=4, texts=4, store_fingerprint=store.fingerprint, versions={}, device="cpu"
    )
    hits = _Hits(recall=(np.ones((1, 4)),), images=np.arange(4), top_1=None, report=facts, note=None)
    monkeypatch.setattr("embedstore.recipes.policy_study._fitted", lambda *_, **__: hits)
    with working_copy(store, ["vision", "words"]) as copy:
        recode_feature(copy, "vision", policy="int8", name="recoded")
        found = study_policies(
            copy, CONFIG.model_copy(update={"image": "recoded"}), policies=["cls+mean", "fp8"], seeds=1
        )
    assert [p.policy for p in found.policies] == ["int8", "cls+mean", "fp8"]


def test_the_command_prints_tables_of_80_columns_and_writes_what_it_says(study, run, monkeypatch, tmp_path):
    asked = {}

    def given(store, config, **options):
        asked.update(options, store=store, config=config)
        return study

    monkeypatch.setattr("embedstore.recipes.policy_study.study_policies", given)
    command = ["bench", "policies", "STORE", "--image", "vision", "--text", "words", "--policies", "int8,fp8"]
    code, out, err = run(*command, "--epochs", 3, "--out", tmp_path / "p.json", "--plot", tmp_path / "p.svg")
    assert code == 0, err
    assert (asked["policies"], asked["config"].epochs, asked["config"].split) == (("int8", "fp8"), 3, "train")
    assert all(len(line) <= 80 for line in out.splitlines() if str(tmp_path) not in line)
    assert "Recall@1, mean of both directions" in out
    assert "left out: pq-99" in out
    assert (tmp_path / "p.json").read_text() == study.to_json()
    assert (tmp_path / "p.svg").read_text() == policy_chart(study)
    code, out, _ = run(*command, "--json")
    assert json.loads(out) == json.loads(study.to_json())
    code, _, err = run(*command, "--plot", tmp_path / "none" / "p.svg")
    assert code == 2
    assert "cannot write" in err
