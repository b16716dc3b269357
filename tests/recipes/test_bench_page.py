from __future__ import annotations

import inspect

import numpy as np
import pytest

from embedstore.bench import Measured, measure_retrieval, measure_zeroshot
from embedstore.documents import BenchReport, Figure, FitConfig
from embedstore.fit import fit_head
from embedstore.recipes import bench_page as pages
from embedstore.recipes.bench_page import Told, bench_page, headlines, write_bench_page
from embedstore.recipes.chapters import classes, learning, projection, retrieval, settings, zeroshot
from embedstore.recipes.chapters.figures import figure_blocks
from embedstore.recipes.page.content import Section
from embedstore.testing.stores import write_random_store
from embedstore.testing.texts import WordEncoder
from embedstore_cli.commands.bench import app as bench_commands


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def store(place):
    return write_random_store(place / "store", images=200, captions=2, noise=0.2)


@pytest.fixture(scope="module")
def head(store, place):
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
    fit_head(store, config, place / "head", device="cpu")
    return place / "head"


@pytest.fixture(scope="module")
def retrieved(store, head) -> Measured:
    return measure_retrieval(store, head, device="cpu")


@pytest.fixture(scope="module")
def classified(store, head) -> Measured:
    with pytest.MonkeyPatch.context() as patch:
        words = WordEncoder(store["words"].card)
        patch.setattr("embedstore.bench.prompts.encoder_for_card", lambda *_, device: words)
        return measure_zeroshot(store, head, device="cpu")


def report(task="mine", metrics=None, chance=None, **fields) -> BenchReport:
    made = {
        group: {name: Figure(value=v, low=max(0, v - 0.1), high=v + 0.1) for name, v in values.items()}
        for group, values in (metrics or {}).items()
    }
    return BenchReport(task=task, metrics=made, chance=chance or {}, store_fingerprint="0" * 64, **fields)


def test_text_queries_show_what_was_ranked_and_the_right_picture(retrieved) -> None:
    found = retrieved.found
    scores = found.texts @ found.images.T
    words = found.setting.store.texts()["text"].to_pylist()
    asked = np.array([0, 7, 13, 20, 33])
    for text, query in zip(asked, retrieval.text_queries(found, asked, answers=3), strict=True):
        assert query.text == words[found.pairs.texts[text]]
        assert query.rank == found.text_to_image[text]
        ranks = [1, 2, 3] if query.rank <= 3 else [1, 2, 3, query.rank]
        assert [a.rank for a in query.answers] == ranks
        best = np.sort(scores[text])[::-1]
        assert np.allclose([a.score for a in query.answers], best[np.array(ranks) - 1], atol=1e-5)
        right = [a for a in query.answers if a.right]
        assert [a.rank for a in right] == [query.rank]
        assert right[0].score == pytest.approx(scores[text, found.pairs.image_of[text]], abs=1e-5)


def test_pictures_ask_for_captions_and_all_their_own_are_right(retrieved) -> None:
    found = retrieved.found
    asked = np.arange(20)
    for query in retrieval.image_queries(found, asked, answers=4):
        rights = [a.rank for a in query.answers if a.right]
        assert rights[0] == query.rank
        assert len(query.answers) == (4 if query.rank <= 4 else 5)


def test_the_worst_come_first_and_only_once_a_picture(retrieved) -> None:
    found = retrieved.found
    worst = retrieval.worst_texts(found)
    ranks = found.text_to_image[worst]
    assert ranks.tolist() == sorted(ranks, reverse=True)
    assert ranks[0] == found.text_to_image.max()
    own = found.pairs.image_of[worst].tolist()
    assert len(set(own)) == len(own)
    lost = {int(i) for i in found.pairs.image_of[found.text_to_image > 1]}
    assert set(own) == lost
    assert found.image_to_text[retrieval.worst_images(found)].min() > 1


def test_of_an_approximate_index_nothing_is_told_that_it_does_not_know(store, head, retrieved) -> None:
    some = measure_retrieval(store, head, index="hnsw", device="cpu")
    exact = retrieval.retrieval_blocks(retrieved.found, retrieved.report)
    blocks = retrieval.retrieval_blocks(some.found, some.report)
    assert [b.title for b in blocks] == [None, "Words to pictures", "Pictures to words"]
    assert blocks[1:] == exact[1:3]
    assert "to 100" in exact[0].value[0].alt
    figures = some.report.metrics["text_to_image"]
    low, high = (100 * figures[name].value for name in ("recall@1", "recall@10"))
    assert f"text to image from {low:.3g} to {high:.3g};" in blocks[0].value[0].alt


def test_each_class_names_the_class_that_is_most_often_meant_instead(classified) -> None:
    found, count = classified.found, len(classified.found.classes)
    taken = classes.Taken.of_rows(found.labels, found.predicted, count)
    assert (taken.matrix(np.arange(count)) == found.confusion).all()
    again = classes.Taken.of_table(found.confusion)
    assert again.most_often() == taken.most_often()
    wrong = found.confusion - np.diag(np.diag(found.confusion))
    assert (taken.mistakes == wrong.sum(axis=0) + wrong.sum(axis=1)).all()
    for own, (other, times) in taken.most_often().items():
        assert (other, times) == (wrong[own].argmax(), wrong[own].max())
    labels = [c.label for c in found.classes]
    table = classes.class_blocks(classified.report.per_class, labels, taken, metric="Recall")[1].value
    values = [row.figure.value for row in table.rows]
    assert values == sorted(values, reverse=True)
    assert sum(int(row.size) for row in table.rows) == len(found.rows)
    for row in table.rows:
        if row.taken_for is not None:
            times = wrong[labels.index(row.name), labels.index(row.taken_for)]
            assert row.times == f"{times} of {row.size}"


def test_mistakes_are_told_with_what_they_are_and_were_called(classified) -> None:
    found = classified.found
    cards = zeroshot.mistakes(found)
    assert len(cards) == min(zeroshot.WORST, int((found.ranks > 1).sum()))
    labels = [c.label for c in found.classes]
    for card in cards:
        words = " ".join(card.lines)
        assert sum(label in words for label in labels) == 2
        assert "rank 1 of" not in words


def test_of_many_classes_the_matrix_shows_those_with_the_most_mistakes(monkeypatch) -> None:
    table = np.diag([5, 5, 5, 5])
    table[3, 1] = 2
    monkeypatch.setattr(classes, "MOST_IN_MATRIX", 2)
    plot = classes.confusion_matrix(list("abcd"), classes.Taken.of_table(table))
    assert plot.alt == "b 100 % right; d 71 % right"
    assert "2 of 4 classes" in plot.title
    assert classes.confusion_matrix(list("abcd"), classes.Taken.of_table(np.diag([5, 0, 0, 0]))) is None


def test_of_very_many_classes_the_best_and_the_worst_are_shown(monkeypatch) -> None:
    monkeypatch.setattr(classes, "MOST_CLASSES", 4)
    figures = {f"c{k}": Figure(value=k / 10, low=0, high=1) for k in range(9)}
    block = classes.class_bars(figures, metric="IoU")
    assert [row.name for row in block.value.rows] == ["c8", "c7", "c1", "c0"]
    assert "of 9 classes" in block.lead


def test_the_page_holds_what_was_measured_and_set(retrieved, classified) -> None:
    seen = []
    told = Told(commands=("embedstore bench",), sections=(Section.of("This run", encode="12 s"),))
    page = bench_page([retrieved, classified], told=told, on_progress=lambda *at: seen.append(at))
    recall = retrieved.report.metrics["text_to_image"]["recall@1"].value
    for words in (
        f"{100 * recall:.1f} %",
        "embedstore bench",
        "random-image-0",
        "encode</dt>",
        "12 s",
        retrieved.report.store_fingerprint,
        retrieved.report.head_sha256,
        "Before and after the projection",
        "Validation recall@1",
        "What the head is worth",
        "Worst mistakes",
        "torch</dt>",
    ):
        assert words in page
    assert seen[0] == (0, 4, "retrieval")
    assert seen[-1][:2] == (4, 4)
    assert page.count("<figure>") == 2 + 2 + 5 + 3


def test_a_map_keeps_clusters_and_is_always_the_same() -> None:
    random = np.random.default_rng(0)
    vectors = np.concatenate([random.normal(size=(20, 8)) + 9 * np.eye(8)[k] for k in (0, 1)])
    flat = projection.flattened(vectors, seed=0)
    distances = np.linalg.norm(flat[:, None] - flat[None], axis=-1) + np.diag(np.full(40, np.inf))
    assert ((distances.argmin(axis=1) < 20) == (np.arange(40) < 20)).all()
    assert (flat == projection.flattened(vectors, seed=0)).all()
    assert np.isfinite(projection.flattened(np.ones((20, 4)), seed=0)).all()


def test_without_labels_pictures_fall_into_groups(retrieved, monkeypatch) -> None:
    found = retrieved.found
    texts = found.pairs.texts[found.pairs.offsets[:-1]]
    labelled = projection.projection_chapter(found.setting, found.pairs.images, texts, seed=0)
    assert "most frequent classes" in labelled.lead
    monkeypatch.setattr(projection, "GROUPS", 1)
    bare = projection.projection_chapter(found.setting, found.pairs.images, None, seed=0)
    assert "k-means" in bare.lead
    assert len(labelled.blocks[0].value) == 5
    assert len(bare.blocks[0].value) == 2
    assert all("100% have" in plot.note for plot in bare.blocks[0].value)
    assert "by lot 100%" in bare.lead
    assert projection.projection_chapter(found.setting, found.pairs.images[:5], None, seed=0) is None


def test_a_task_without_a_chapter_of_its_own_has_its_figures() -> None:
    mine = report(metrics={"<i>way": {"share": 0.5}}, chance={"<i>way": {"share": 0.45}}, notes=("<b>",))
    page = bench_page([Measured(report=mine, found=object())])
    assert "&lt;i&gt;way" in page
    assert "&lt;b&gt;" in page
    assert "1 of 1 figures do not show" in page
    assert "50.0 %" in page
    assert "0" * 64 in page


def test_groups_that_are_numbers_become_a_curve() -> None:
    parts = {f"text_to_image/{n}": {"recall@1": n / 100, "recall@5": 0.9} for n in (64, 8, 16)}
    chance = {group: {"recall@1": 0.01} for group in parts}
    table, drawn = figure_blocks(report("long-text", parts, chance))
    assert table.kind == "grids"
    plots = drawn.value
    assert plots[0].title == "recall@1 over tokens that are read at most"
    assert "text to image from 8 to 64" in plots[0].alt
    assert "; chance from 1 to 1" in plots[0].alt
    words = {f"text_to_image/{name}": {"recall@1": 0.5} for name in ("de", "fr")}
    assert len(figure_blocks(report("languages", words))[1].value) == 1
    shots = {f"linear/{name}": {"top-1": 0.5} for name in ("1 shot", "16 shots", "all")}
    assert "linear from 50 to 50" in figure_blocks(report("probe", shots))[1].value[0].alt


def test_many_groups_become_a_table_for_each_direction() -> None:
    languages = [f"{way}/l{k}" for k in range(12) for way in ("a", "b")]
    metrics = {name: {"recall@1": 0.5, "recall@5": 0.9} for name in languages} | {"b/x": {"recall@5": 0.1}}
    chance = {name: {"recall@1": 0.1} for name in languages} | {"b/l3": {"recall@1": 0.2}}
    table, drawn = figure_blocks(report("languages", metrics, chance))
    one, two = table.value
    assert (one.direction, one.metrics, len(one.rows)) == ("a", ("recall@1", "recall@5"), 12)
    assert [row.name for row in two.rows] == [f"l{k}" for k in range(12)] + ["x"]
    assert two.rows[-1].cells[0] is None
    low, high = two.chance[0]
    assert (low.chance, high.chance, two.chance[1]) == (0.1, 0.2, None)
    assert "a, recall@1, l0 50.0 %" in drawn.value[0].alt
    assert "b, recall@5, x 10.0 %" in drawn.value[0].alt
    assert "a, recall@5" not in drawn.value[0].alt


def test_the_headline_of_a_direction_is_its_whole_or_its_last_part() -> None:
    metrics = {"a/1": {"m": 0.1}, "a/2": {"m": 0.2}, "b": {"m": 0.3, "n": 0.4}, "b/x": {"m": 0.5}}
    mine = Measured(report=report(metrics=metrics))
    assert [h.measure.figure.value for h in headlines([mine])] == [0.2, 0.3]
    assert len(headlines([mine] * 3)) == 3
    mean = {"a/x": {"m": 0.1}, "a/average": {"m": 0.2}, "a/z": {"m": 0.3}}
    assert [h.measure.part for h in headlines([Measured(report=report(metrics=mean))])] == ["average"]
    masks = {"pixels": {"outside": 0.1}, "foreground": {"mean_iou": 0.4}}
    named = headlines([Measured(report=report("segment", masks))])
    assert [h.measure.metric for h in named] == ["mean_iou"]


def test_a_head_without_a_log_has_no_learning_curve(tmp_path, head) -> None:
    assert learning.learning_chapter(tmp_path) is None
    (tmp_path / "log.jsonl").write_text('{"kind": "start"}\n')
    assert learning.learning_chapter(tmp_path) is None
    plots = learning.learning_plots(head)
    assert [p.title.partition(";")[0] for p in plots] == [
        "Training loss",
        "Validation recall@1",
        "Temperature τ",
    ]


def test_stored_embeddings_have_no_before(store) -> None:
    both = write_random_store(store.path.parent / "two", images=60, image_width=12, text_width=12)
    found = measure_retrieval(both, image="vision", text="words", device="cpu")
    page = bench_page([found])
    assert "What the features are worth" in page
    assert "Pictures before" not in page
    assert "Pictures after" not in page


def test_settings_tell_the_rows_and_prompts() -> None:
    mine = report(templates=tuple(f"{{}} {k}" for k in range(7)), skipped={"<x>": 2}, options={"k": 5})
    facts = {f.name: f.value for f in settings.task_section(mine).facts}
    assert facts["prompts"].endswith("and 2 more")
    assert facts["left out"] == "<x> 2"
    assert facts["options"] == "k=5"
    assert [s.title for s in settings.settings_sections(mine, None)] == ["Data", "Measured with"]


def test_a_page_is_written_whole(tmp_path, retrieved, monkeypatch) -> None:
    monkeypatch.setattr(pages, "bench_page", lambda *_, **__: "whole")
    write_bench_page([retrieved], tmp_path / "p.html")
    assert (tmp_path / "p.html").read_text() == "whole"


def test_html_is_refused_before_anything_is_measured(run, tmp_path, monkeypatch) -> None:
    code, _, err = run("bench", "retrieval", "no.store", "--head", "x", "--html", tmp_path / "no" / "p.html")
    assert code == 2
    assert "cannot write the file" in err
    monkeypatch.setattr("embedstore.recipes.page.extra.NEEDED", ("no_such_package",))
    code, _, err = run("bench", "zeroshot", "no.store", "--head", "x", "--html", tmp_path / "p.html")
    assert "pip install 'embedstore[demo]'" in err


def test_every_task_can_draw_its_page() -> None:
    commands = {command.name: command.callback for command in bench_commands.registered_commands}
    assert len(commands) >= 11
    without = [name for name, call in commands.items() if "html" not in inspect.signature(call).parameters]
    assert without == ["compare"]


def test_the_command_writes_a_page_with_the_command(run, store, head, tmp_path) -> None:
    page = tmp_path / "p.html"
    code, out, err = run("bench", "retrieval", store.path, "--head", head, "--device", "cpu", "--html", page)
    assert code == 0, err
    assert f"page: {page}" in out.replace("\n", "")
    assert f"embedstore bench retrieval {store.path}" in page.read_text(encoding="utf-8")
