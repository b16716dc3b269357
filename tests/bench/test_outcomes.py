from __future__ import annotations

import hashlib
import io

import numpy as np
import pyarrow.parquet as pq
import pytest

from embedstore.bench import measure_retrieval, measure_zeroshot, ranking, write_measured
from embedstore.bench.outcomes import Outcomes, figures_of, outcomes_bytes, rank_outcomes, read_outcomes
from embedstore.bench.versions import FAISS, PROBES, versions_of
from embedstore.documents import BenchReport
from embedstore.errors import UsageError
from embedstore.index.exact import ranks_both_ways
from embedstore.metrics.statistics import Statistic, values_of


@pytest.fixture(scope="module")
def retrieval(store, head_dir):
    return measure_retrieval(store, head_dir, device="cpu")


def assert_recomputed(report, outcomes) -> None:
    assert set(outcomes) == set(report.metrics)
    for group, found in outcomes.items():
        values = values_of(found.sample, found.statistics)
        assert values == pytest.approx({m: f.value for m, f in report.metrics[group].items()}, abs=1e-12)


def test_a_reports_figures_are_recomputed_from_the_file_beside_it(retrieval, store, tmp_path) -> None:
    report = write_measured(retrieval, tmp_path / "a.json")
    file = tmp_path / "a.outcomes.parquet"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", file.name]
    assert report.outcomes_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert BenchReport.from_json((tmp_path / "a.json").read_text(), where="a.json") == report
    outcomes = read_outcomes(file, report.outcomes_sha256)
    assert_recomputed(report, outcomes)
    images, texts = store.images()["id"].to_pylist(), store.texts()["id"].to_pylist()
    pairs = retrieval.found.pairs
    assert outcomes["image_to_text"].ids.to_pylist() == [images[i] for i in pairs.images]
    assert outcomes["text_to_image"].ids.to_pylist() == [texts[i] for i in pairs.texts]


def test_zeroshots_figures_are_recomputed(store, head_dir, encoder, tmp_path) -> None:
    measured = measure_zeroshot(store, head_dir, device="cpu")
    report = write_measured(measured, tmp_path / "z.json")
    outcomes = read_outcomes(tmp_path / "z.outcomes.parquet", report.outcomes_sha256)
    assert_recomputed(report, outcomes)
    assert set(outcomes["image_to_class"].strata.to_pylist()) == set(report.per_class)


def test_a_texts_unit_is_its_image(retrieval, store, tmp_path) -> None:
    write_measured(retrieval, tmp_path / "a.json")
    found = read_outcomes(tmp_path / "a.outcomes.parquet")["text_to_image"]
    texts = store.texts()
    images = dict(zip(texts["id"].to_pylist(), texts["image"].to_pylist(), strict=True))
    names = store.images()["id"].to_pylist()
    assert found.unit_of == {text: names[images[text]] for text in found.ids.to_pylist()}
    assert found.sample.count == len(retrieval.found.pairs.images) < len(found.ids)


def test_a_file_without_owners_is_read_as_rows_by_themselves(retrieval, tmp_path) -> None:
    whole = pq.read_table(io.BytesIO(outcomes_bytes(retrieval.outcomes)))
    pq.write_table(whole.drop_columns(["owner"]), tmp_path / "o.parquet")
    found = read_outcomes(tmp_path / "o.parquet")["text_to_image"]
    assert found.owners is None
    assert found.sample.count == len(found.ids)


def test_intervals_are_as_wide_as_the_images_tell() -> None:
    """Five equal texts of each image are worth one: the interval is that of 60 images, not of 300 texts."""
    ranks = np.random.default_rng(0).integers(1, 4, 60)
    images = [f"image-{i:02}" for i in range(60)]
    one = figures_of(rank_outcomes(images, ranks), seed=0)
    five = rank_outcomes([f"text-{i}" for i in range(300)], np.repeat(ranks, 5), owners=np.repeat(images, 5))
    assert figures_of(five, seed=0) == one
    assert one["recall@1"].high - one["recall@1"].low == pytest.approx(
        2 * 1.96 * np.sqrt((ranks == 1).mean() * (ranks > 1).mean() / 60), rel=0.15
    )


def test_the_same_outcomes_are_the_same_bytes(retrieval) -> None:
    assert outcomes_bytes(retrieval.outcomes) == outcomes_bytes(retrieval.outcomes)


def test_groups_keep_values_of_their_own_and_rows_without_a_value(tmp_path) -> None:
    iou = Statistic(kind="stratum-ratio", value="both", over="either", without="sky")
    one = Outcomes(
        ids=["p", "p", "q"],
        strata=["sky", "sea", None],
        values={"both": np.array([1, 2, np.nan]), "either": np.array([3, 4, 0])},
        statistics={"mean-iou": iou},
    )
    share = Statistic(kind="mean", value="right")
    two = Outcomes(ids=["x"], values={"right": np.array([0.5])}, statistics={"accuracy": share})
    assert one.sample.count == 2
    file = tmp_path / "o.parquet"
    file.write_bytes(outcomes_bytes({"one": one, "two": two}))
    back = read_outcomes(file)
    assert back["one"].statistics == {"mean-iou": iou}
    assert (back["one"].ids.to_pylist(), back["one"].strata.to_pylist()) == (
        ["p", "p", "q"],
        ["sky", "sea", None],
    )
    np.testing.assert_array_equal(back["one"].values["both"], [1, 2, np.nan])
    assert (back["two"].strata, set(back["two"].values)) == (None, {"right"})
    assert values_of(back["one"].sample, back["one"].statistics) == {"mean-iou": 0.5}


def test_bad_outcomes_are_refused() -> None:
    with pytest.raises(UsageError, match="different lengths"):
        Outcomes(ids=["a", "b"], values={"rank": np.ones(3)}, statistics={})
    with pytest.raises(UsageError, match="different lengths"):
        Outcomes(ids=["a"], values={"rank": np.ones(1)}, statistics={}, strata=["x", "y"])
    with pytest.raises(UsageError, match="cannot have this name"):
        Outcomes(ids=["a"], values={"id": np.ones(1)}, statistics={})


def test_a_file_that_is_not_the_reports_is_refused(retrieval, tmp_path) -> None:
    report = write_measured(retrieval, tmp_path / "a.json")
    file = tmp_path / "a.outcomes.parquet"
    with pytest.raises(UsageError, match=r"a\.outcomes\.parquet: the outcomes are not those of the report"):
        read_outcomes(file, "0" * 64)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UsageError, match="the outcomes are not those"):
        read_outcomes(file, report.outcomes_sha256)
    with pytest.raises(UsageError, match="the outcomes cannot be read"):
        read_outcomes(file)
    with pytest.raises(UsageError, match="the outcomes cannot be read"):
        read_outcomes(tmp_path / "none.parquet")
    with pytest.raises(UsageError, match="cannot write the file"):
        write_measured(retrieval, tmp_path / "none" / "a.json")


def test_names_with_points_are_of_different_reports(retrieval, tmp_path) -> None:
    names = ["run.v1", "run.v2", "run.v3.json"]
    written = [write_measured(retrieval, tmp_path / name).outcomes_sha256 for name in names]
    beside = [tmp_path / f"run.v{k}.outcomes.parquet" for k in (1, 2, 3)]
    assert [hashlib.sha256(file.read_bytes()).hexdigest() for file in beside] == written


def test_the_block_of_the_scores_changes_no_figure(retrieval, store, head_dir, monkeypatch) -> None:
    monkeypatch.setattr(
        ranking, "ranks_both_ways", lambda *args, **options: ranks_both_ways(*args, **options | {"block": 7})
    )
    blocked = measure_retrieval(store, head_dir, device="cpu")
    assert blocked.report.to_json() == retrieval.report.to_json()
    assert outcomes_bytes(blocked.outcomes) == outcomes_bytes(retrieval.outcomes)


def test_the_libraries_of_a_report_are_those_that_it_used() -> None:
    assert list(versions_of()) == ["embedstore", "torch", "numpy"]
    assert "scikit-learn" in versions_of(*PROBES)
    assert len(set(versions_of(*FAISS)) - set(versions_of())) == 1
    assert "no-such-library" not in versions_of("no-such-library")
