"""Two reports compared on the command line; no head is fitted for it."""

import json
import re

import numpy as np
import pytest

from embedstore.bench import Measured, write_measured
from embedstore.bench.outcomes import figures_of, rank_outcomes
from embedstore.documents import BenchReport, Comparisons
from embedstore_cli import render

IDS = [f"image-{i}" for i in range(50)]


@pytest.fixture
def reports(tmp_path):
    """Two reports; the second finds everything later, in a group with a long name too."""

    def write(name, ranks, **fields):
        groups = ("text_to_image", "image_to_text/an-uncommonly-long-language-name")
        report = BenchReport(
            task="retrieval",
            metrics=dict.fromkeys(groups, figures_of(rank_outcomes(IDS, ranks), seed=0)),
            store_fingerprint="0" * 64,
            **fields,
        )
        outcomes = {groups[0]: rank_outcomes(IDS, ranks)}
        write_measured(Measured(report=report, outcomes=outcomes), tmp_path / name)
        return tmp_path / name

    ranks = np.random.default_rng(0).integers(1, 9, 50)
    return write("a.json", ranks), write(
        "b.json",
        ranks + 3,
        split="test",
        templates=("a photograph of a {}, taken on a clear day in May",) * 9,
    )


def test_a_comparison_is_a_table_of_80_columns_with_a_verdict_a_figure(run, reports):
    code, out, err = run("bench", "compare", *reports)
    assert (code, err.strip()) == (0, "")
    assert all(len(line) <= 80 for line in out.splitlines())
    rows = re.findall(r"^text to image recall@(\d+) .*(A better|B better|noise) *$", out, re.MULTILINE)
    assert rows == [("1", "A better"), ("5", "A better"), ("10", "noise")]
    assert "text to image: paired bootstrap over 50 images" in out
    told = " ".join(out.split())
    assert "its task does not tell the rows of this group" in told
    assert "figures differ by more than noise" in told
    assert "split" in out
    assert "test" in out


def test_a_report_against_itself_is_noise(run, reports):
    code, out, _ = run("bench", "compare", reports[0], reports[0])
    assert code == 0
    assert "no figure differs by more than noise" in out
    assert "all else is the same" in out


def test_json_is_a_document_of_its_own_and_is_what_out_writes(run, reports, tmp_path):
    code, out, _ = run("bench", "compare", *reports, "--json", "--out", tmp_path / "c.json")
    assert code == 0
    assert (tmp_path / "c.json").read_text() == out
    (found,) = Comparisons.from_json(out, where="out").comparisons
    assert found.metrics["text_to_image"]["recall@5"].better == "a"
    assert json.loads(out)["comparisons"][0]["settings"]["split"] == [None, "test"]


def test_other_tasks_and_files_are_one_clear_error(run, reports, tmp_path):
    other = tmp_path / "other.json"
    other.write_text(BenchReport(task="zeroshot", metrics={}, store_fingerprint="0" * 64).to_json())
    code, out, err = run("bench", "compare", reports[0], other)
    assert (code, out) == (2, "")
    assert "different tasks" in err
    code, _, err = run("bench", "compare", reports[0], tmp_path / "none.json")
    assert code == 2
    assert "none.json" in err


def test_a_reports_table_is_80_columns_wide_whatever_its_names(capsys):
    long = "an-uncommonly-long-" * 6
    figure = {"value": 123456.789, "low": -99999.123, "high": 999999.321}
    report = BenchReport(
        task="retrieval",
        metrics={f"text_to_image/{long}": {"mean_rank": figure, long: {"value": 0.5, "low": 0, "high": 1}}},
        chance={f"text_to_image/{long}": {"mean_rank": 12345.678}},
        images=10**9,
        texts=10**10,
        classes=10**6,
        split=long,
        store_fingerprint="0" * 64,
    )
    render.report(report)
    assert max(len(line) for line in capsys.readouterr().out.splitlines()) <= 80


def test_a_table_that_is_none_is_refused_before_anything_is_opened(run, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("image,caption\n")
    code, out, err = run("bench", "retrieval", "no-store", "--head", "no-head", "--csv", other)
    assert (code, out) == (2, "")
    assert "not a table of CLIP_benchmark" in err
