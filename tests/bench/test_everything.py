from __future__ import annotations

import shutil

import pytest

from embedstore.bench import (
    TASKS,
    compare_files,
    measure_all,
    measure_probe,
    measure_retrieval,
    write_everything,
)
from embedstore.bench.everything import NO_HEAD
from embedstore.bench.outcomes import read_outcomes
from embedstore.documents import BenchReports
from embedstore.errors import StoreNotFoundError, UnknownNameError, UsageError
from embedstore.metrics.statistics import values_of
from embedstore.store import layout
from embedstore.testing.stores import write_random_store


def needs_a_head(store, head_dir, *, split, device, seed):
    """A task of another package."""
    return measure_retrieval(store, head_dir, split=split, device=device, seed=seed)


def finds_nothing(store, head_dir=None, *, split, device, seed, colour="red"):
    raise UsageError(f"no picture is {colour}", todo="paint one")


@pytest.fixture(autouse=True)
def tasks(monkeypatch):
    """Three tasks, whatever others there are."""
    three = {"retrieval": measure_retrieval, "second": needs_a_head, "third": finds_nothing}
    monkeypatch.setattr(TASKS, "names", lambda: list(three))
    monkeypatch.setattr(TASKS, "load", three.get)


@pytest.fixture
def found(store, head_dir):
    return measure_all(store, head_dir, device="cpu", seed=3)


def test_each_task_gives_what_it_gives_alone_and_the_others_say_why_not(found, store, head_dir) -> None:
    alone = measure_retrieval(store, head_dir, device="cpu", seed=3).report
    assert found.measured["retrieval"].report == alone
    assert list(found.measured) == ["retrieval", "second"]
    assert found.left_out == {"third": "no picture is red"}


def test_options_reach_the_tasks_that_have_them(store, head_dir) -> None:
    seen = []
    found = measure_all(
        store,
        head_dir,
        device="cpu",
        language="en",
        colour="blue",
        rows=None,
        on_progress=lambda *at: seen.append(at),
    )
    assert found.left_out == {"third": "no picture is blue"}
    assert seen == [(0, 3, "retrieval"), (1, 3, "second"), (2, 3, "third")]


def test_one_file_holds_all_and_the_rows_lie_beside_it(found, tmp_path) -> None:
    document = write_everything(found, tmp_path / "all.json")
    assert BenchReports.from_json((tmp_path / "all.json").read_text(), where="all") == document
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "all.json",
        "all.retrieval.outcomes.parquet",
        "all.second.outcomes.parquet",
    ]
    rows = read_outcomes(
        tmp_path / "all.retrieval.outcomes.parquet", document.reports["retrieval"].outcomes_sha256
    )["text_to_image"]
    value = document.reports["retrieval"].metrics["text_to_image"]["recall@5"].value
    assert values_of(rows.sample, rows.statistics)["recall@5"] == pytest.approx(value)


def test_two_of_them_are_compared_task_by_task(found, store, head_dir, tmp_path) -> None:
    write_everything(found, tmp_path / "a.json")
    write_everything(measure_all(store, head_dir, device="cpu", tasks=["retrieval"]), tmp_path / "b.json")
    both, seen = tmp_path / "a.json", []
    same = compare_files(both, tmp_path / "b.json", on_progress=lambda *at: seen.append(at))
    assert [one.task for one in same.comparisons] == ["retrieval"]
    assert same.only == {"second": "a"}
    assert same.comparisons[0].units == {"text_to_image": 40, "image_to_text": 40}
    assert same.comparisons[0].settings == {"seed": ("3", "0")}
    assert seen == [(1, 2), (2, 2)]


def test_what_is_wrong_with_store_head_or_split_is_an_error_and_no_reason(store, head_dir, tmp_path) -> None:
    with pytest.raises(StoreNotFoundError):
        measure_all(tmp_path / "none", head_dir)
    with pytest.raises(UsageError, match="chosen on split 'val'"):
        measure_all(store, head_dir, split="val", device="cpu")
    with pytest.raises(UsageError, match="nothing to compare"):
        measure_all(store, None)
    with pytest.raises(UsageError, match=r"no split 'tset'[\s\S]*allowed: train 320"):
        measure_all(store, head_dir, split="tset", device="cpu")
    with pytest.raises(UsageError, match=r"named 'few'[\s\S]*no subset yet"):
        measure_all(store, head_dir, rows="few", device="cpu")
    with pytest.raises(UsageError, match=r"no task has such an option[\s\S]*found: color\n[\s\S]*colour"):
        measure_all(store, head_dir, color="blue", device="cpu")
    with pytest.raises(UsageError, match=r"no task has what it needs[\s\S]*third: no picture is red"):
        measure_all(store, head_dir, tasks=["third"], device="cpu")


def test_without_a_head_stored_embeddings_are_measured(store, monkeypatch) -> None:
    monkeypatch.setattr("embedstore.bench.everything.open_stored", lambda *_, **__: None)
    with pytest.raises(UsageError, match=f"second: {NO_HEAD}"):
        measure_all(store, None, tasks=["second", "third"], image="vision", text="words")


def test_an_unknown_task_is_told_with_the_ones_there_are(store, head_dir, monkeypatch) -> None:
    monkeypatch.undo()
    with pytest.raises(UnknownNameError, match=r"unknown bench task 'retrival'[\s\S]*'retrieval'"):
        measure_all(store, head_dir, tasks=["retrival"], device="cpu")


def test_a_store_of_pictures_alone_has_the_tasks_that_read_no_texts(head_dir, tmp_path, monkeypatch) -> None:
    pictures = write_random_store(tmp_path / "pictures", images=80, captions=1, seed=5, noise=0.2)
    shutil.rmtree(layout.feature(pictures.path, "words"))
    two = {"retrieval": measure_retrieval, "probe": measure_probe}
    monkeypatch.setattr(TASKS, "names", lambda: list(two))
    monkeypatch.setattr(TASKS, "load", two.get)
    found = measure_all(pictures.path, head_dir, device="cpu", methods=["knn"])
    assert list(found.measured) == ["probe"]
    assert "no feature of the text encoder" in found.left_out["retrieval"]
