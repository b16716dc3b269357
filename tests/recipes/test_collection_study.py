"""The study of collections: a tiny one from end to end, and what its page says of given figures."""

from __future__ import annotations

import json

import numpy as np
import pytest

from embedstore.errors import UsageError
from embedstore.recipes.collection_page import study_chart, study_page
from embedstore.recipes.collection_study import COLLECTED, RANDOM, SETS, CollectionStudy, Outcome, Recipe


def outcome(*, rare_random: float) -> Outcome:
    """Three classes of 40 test pictures each, two seeds; the collected name the rare one in 30 of 40."""
    labels = np.repeat([0, 1, 2], 40)

    def hits(shares: tuple[float, ...]) -> np.ndarray:
        return np.stack(
            [
                np.concatenate([np.arange(40) < 40 * share + seed for share in shares]).astype(float)
                for seed in range(2)
            ]
        )

    return Outcome(
        classes=("arrow", "circle", "star"),
        pool=np.array([10, 80, 30]),
        rare=np.array([0]),
        rows={name: np.array([[9, 12, 12]] * 2 if name != RANDOM else [[3, 22, 8]] * 2) for name in SETS},
        labels=labels,
        right={name: hits((0.75 if name != RANDOM else rare_random, 0.5, 0.5)) for name in SETS},
        agree=0.84,
        shared={"common-first": 0.97, "any-order": 0.985},
        steps=dict.fromkeys(SETS, 36),
    )


def test_recalls_and_means_are_those_of_the_classes():
    found = outcome(rare_random=0.25)
    assert found.recall(RANDOM) == pytest.approx(np.array([[0.25, 0.5, 0.5], [0.275, 0.525, 0.525]]))
    assert found.mean_per_class(RANDOM, found.rare) == pytest.approx([0.25, 0.275])
    assert found.mean_per_class(COLLECTED) == pytest.approx([(0.75 + 1) / 3, (0.75 + 1) / 3 + 0.025])


def test_the_page_tells_the_difference_and_whether_it_is_one():
    recipe = Recipe(seeds=2, scenes=120)
    page = study_page(outcome(rare_random=0.25), recipe, chart="chart.svg")
    assert "The rarest third is arrow: 10 pictures of\n120" in page
    assert "circle alone has 80" in page
    assert "| random, as many | 33 | 3 | 36 | 26.2 ± 1.8 | 42.9 ± 1.8 |" in page
    assert "| random, as many | rare third | +50.0 | +50.0 to +50.0 |" in page
    assert "- **Against random rows, rare third**: +50.0 points; both intervals exclude 0." in page
    assert "- **Against the whole pool, rare third**: +0.0 points; not both intervals exclude 0" in page
    assert "(chart.svg)" in page
    near = study_page(outcome(rare_random=0.7), recipe, chart="chart.svg")
    assert "- **Against random rows, rare third**: +5.0 points; not both" in near
    assert max(map(len, page.splitlines())) <= 140


def test_the_chart_shows_frequent_classes_first():
    svg = study_chart(outcome(rare_random=0.25))
    assert svg.index(">circle<") < svg.index(">star<") < svg.index(">arrow<")


def test_a_page_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    with pytest.raises(UsageError, match="cannot write the file"):
        CollectionStudy(out=tmp_path / "out", page=tmp_path / "nowhere" / "page.md").run()
    assert not (tmp_path / "out").exists()


def test_a_tiny_study_runs_from_the_pool_to_the_page_and_goes_on(tmp_path, tiny_vision, tiny_words):
    told: list[str] = []
    study = CollectionStudy(
        out=tmp_path / "out",
        page=tmp_path / "page.md",
        recipe=Recipe(
            scenes=80,
            tests=40,
            keep=20,
            per_concept=4,
            epochs=1,
            batch_size=16,
            width=8,
            seeds=2,
            image_encoder=f"hf:{tiny_vision}",
            text_encoder=f"hf:{tiny_words}",
        ),
        device="cpu",
        say=told.append,
    )
    found = study.run()
    taken = {name: set(rows.sum(axis=1)) for name, rows in found.rows.items()}
    size = taken[COLLECTED].pop()
    assert len(found.classes) * 3 <= size <= len(found.classes) * 4
    assert taken[RANDOM] == {size}
    assert taken["pool"] == {80}
    assert found.pool.sum() == 80
    assert found.pool[found.rare].max() <= np.delete(found.pool, found.rare).min()
    assert all(right.shape == (2, len(found.labels)) for right in found.right.values())
    assert (found.rows[RANDOM][0] != found.rows[RANDOM][1]).any()
    assert found.steps[COLLECTED] == -(-size // 16)
    assert (tmp_path / "page.svg").read_text().startswith("<svg")
    page, heads = study.page.read_text(), sorted((tmp_path / "out" / "heads").glob("*/head.safetensors"))
    assert "over 2 seeds" in page
    assert len(heads) == 2 * len(SETS)
    written = [head.stat().st_mtime_ns for head in heads]
    told.clear()
    again = study.run()
    assert json.dumps(again.to_dict()) == json.dumps(found.to_dict())
    assert [head.stat().st_mtime_ns for head in heads] == written
    assert study.page.read_text() == page
