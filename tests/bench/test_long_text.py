from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from embedstore.bench import bench_long_text, bench_retrieval, measure_long_text, write_measured
from embedstore.bench.long_text import at_limit
from embedstore.bench.outcomes import read_outcomes
from embedstore.bench.rows import NO_TEXT
from embedstore.errors import HeadError, UsageError
from embedstore.metrics.statistics import values_of
from embedstore.model import load_head
from embedstore.store import open_store, plan_feature
from embedstore.testing.stores import write_feature, write_random_store


def cut_feature(store, name: str, limit: int, *, without: int | None = None) -> None:
    """What an encoder without any context would make at a lower limit: the first tokens of each text."""
    words = store["words"]
    tokenizer = words.card.tokenizer.model_copy(update={"max_length": limit})
    card = words.card.model_copy(update={"tokenizer": tokenizer})
    header = plan_feature(name=name, plan=store.plan, card=card)
    packed = words.text_tokens(slice(None))
    lengths = np.minimum(words.lengths(), limit)
    if without is not None:
        lengths[without] = 0
    starts = packed.offsets[:-1]
    places = np.concatenate([np.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)])
    arrays = {
        "tokens": packed.tokens[places],
        "lengths": lengths.astype(np.int32),
        "pooled": words.read("pooled", 0, words.rows),
    }
    write_feature(store.path, header, arrays)


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    """The store of the head with the same texts at limits 2, 4 and 8; one of the test split is empty at 4."""
    path = tmp_path_factory.mktemp("long") / "store"
    store = write_random_store(path, images=400, captions=3, seed=5, noise=0.2)
    cut_feature(store, "words-max2", 2)
    cut_feature(store, "words-max4", 4, without=3 * 9)
    return open_store(path)


@pytest.fixture(scope="module")
def measured(longer, head_dir):
    return measure_long_text(longer, head_dir, role="caption", device="cpu")


def test_each_limit_is_a_group_of_both_directions(measured) -> None:
    report = measured.report
    assert list(report.metrics) == [
        *(f"text_to_image/{n}" for n in (2, 4, 8)),
        *(f"image_to_text/{n}" for n in (2, 4, 8)),
    ]
    assert measured.found.limits == (2, 4, 8)
    assert [f.name for f in measured.found.features] == ["words-max2", "words-max4", "words"]
    assert report.chance["text_to_image/4"]["recall@5"] == pytest.approx(5 / 40)
    assert (report.images, report.texts, report.role, report.text_card.tokenizer.max_length) == (
        40,
        119,
        "caption",
        8,
    )


def test_a_text_that_cannot_be_read_at_one_limit_is_left_out_of_all(measured) -> None:
    assert measured.report.skipped == {NO_TEXT: 1}
    assert 3 * 9 not in measured.found.pairs.texts


def test_the_figures_at_the_heads_own_limit_are_those_of_retrieval(measured, longer, head_dir) -> None:
    # The text that limit 4 cannot read is missing from the one and not from the other.
    rows = np.setdiff1d(np.arange(400), [9])
    own = bench_retrieval(longer, head_dir, rows=rows, device="cpu")
    found = bench_long_text(longer, head_dir, role="caption", rows=rows, device="cpu")
    for way in ("text_to_image", "image_to_text"):
        assert found.metrics[f"{way}/8"] == own.metrics[way]
        assert found.chance[f"{way}/8"] == own.chance[way]
    assert found.head_sha256 == own.head_sha256


def test_how_many_texts_were_cut_is_told(measured, longer) -> None:
    lengths = longer["words"].lengths()[measured.found.pairs.texts]
    cut = {f"cut at {n}": int((lengths > n).sum()) for n in (2, 4)}
    assert measured.report.options == cut | {"cut at 8": int((lengths == 8).sum())}
    assert measured.found.cut[0] > measured.found.cut[1] > 0
    notes = " ".join(measured.report.notes)
    assert f"2 tokens: {cut['cut at 2']}, 4 tokens: {cut['cut at 4']}" in notes
    assert f"fill all 8 tokens, so may have been cut: {measured.found.cut[2]}" in notes


def test_the_outcomes_give_the_same_figures(measured, tmp_path) -> None:
    report = write_measured(measured, tmp_path / "l.json")
    outcomes = read_outcomes(tmp_path / "l.outcomes.parquet", report.outcomes_sha256)
    assert set(outcomes) == set(report.metrics)
    for group, figures in report.metrics.items():
        values = values_of(outcomes[group].sample, outcomes[group].statistics)
        assert values == pytest.approx({m: f.value for m, f in figures.items()})


def test_named_features_are_measured_by_rising_limit_without_the_heads_own(longer, head_dir) -> None:
    found = measure_long_text(
        longer, head_dir, texts=["words-max4", "words-max2"], role="caption", device="cpu"
    )
    assert found.found.limits == (2, 4)
    assert found.report.text_card.tokenizer.max_length == 4


def test_one_limit_is_no_curve_and_the_same_limit_twice_is_refused(store, longer, head_dir, tmp_path) -> None:
    with pytest.raises(
        UsageError, match=r"two limits at least[\s\S]*words \(8 tokens\)[\s\S]*max_length=32,64"
    ):
        bench_long_text(store, head_dir, role="caption", device="cpu")
    with pytest.raises(UsageError, match=r"--text: a limit stands twice[\s\S]*\[4, 4\]"):
        bench_long_text(longer, head_dir, texts=["words-max4", "words-max4"], device="cpu")


def test_features_that_differ_in_more_than_the_limit_are_refused(longer, head_dir, tmp_path) -> None:
    other = write_random_store(tmp_path / "other", images=20, seed=6)
    with pytest.raises(HeadError, match=r"weights_sha256: fitted '0+5', here '0+6'"):
        bench_long_text(other, head_dir, texts=["words"], role="caption", device="cpu")
    # Retrieval itself knows no other limit.
    with pytest.raises(HeadError, match=r"tokenizer.max_length: fitted 8, here 4"):
        bench_retrieval(longer, head_dir, text="words-max4", device="cpu")


def test_probes_are_compared_at_the_same_limit_alone(longer, head_dir) -> None:
    head = load_head(head_dir)
    card = head.config.text_card.model_copy(update={"probe": (0.5, 1.0)})
    probed = replace(head, config=head.config.model_copy(update={"text_card": card}))
    for name in ("words", "words-max2"):
        feature = longer[name]
        of = SimpleNamespace(name=name, card=feature.card.model_copy(update={"probe": (0.5, 2.0)}))
        if name == "words":
            with pytest.raises(HeadError, match="outputs 1 away"):
                at_limit(probed, of).check_text(of)
        else:
            at_limit(probed, of).check_text(of)
    assert at_limit(probed, longer["words-max2"]).sha256 == head.sha256


def test_a_role_that_no_text_has_lists_the_roles(longer, head_dir) -> None:
    with pytest.raises(UsageError, match=r"no text has the role 'long'[\s\S]*roles caption"):
        bench_long_text(longer, head_dir, device="cpu")


def test_the_command_prints_the_curve_and_draws_it(run, longer, head_dir, tmp_path) -> None:
    plot, out = tmp_path / "curve.svg", tmp_path / "report.json"
    command = ("bench", "long-text", longer.path, "--head", head_dir, "--role", "caption", "--device", "cpu")
    code, text, err = run(*command, "--text", "words,words-max2", "--plot", plot, "--out", out)
    assert code == 0, err
    assert "text to image/2 recall@1" in text
    assert "image to text/8 mean_rank" in text
    assert "texts that were cut, of 120: 2 tokens" in err
    drawn = plot.read_text()
    assert drawn.startswith("<svg")
    assert "tokens that are read at most" in drawn
    assert json.loads(out.read_text())["task"] == "long-text"
    code, _, err = run(*command, "--plot", tmp_path / "none" / "curve.svg")
    assert code != 0
    assert "cannot write the file" in err
