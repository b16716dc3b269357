from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from embedstore.bench import TASKS, measure_probe
from embedstore.bench.probe import probe
from embedstore.bench.probing.linear import STRENGTHS, few_shots, hold_out, linear_path
from embedstore.bench.probing.methods import Asked, few_shot_draws
from embedstore.bench.probing.vectors import open_space
from embedstore.bench.rows import NO_LABEL
from embedstore.documents import BenchReport
from embedstore.errors import UsageError
from embedstore.metrics.statistics import values_of
from embedstore.model import load_head
from embedstore.store import open_store
from embedstore.testing.stores import CLASSES, write_random_store


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def hard(tmp_path_factory):
    """Images that are not quite told apart."""
    return write_random_store(tmp_path_factory.mktemp("probe") / "store", images=300, seed=3, noise=6.0)


@pytest.fixture(scope="module")
def measured(hard):
    return measure_probe(
        hard, shots=(1, 4, "all"), neighbours=(5, 20), repeats=3, device="cpu", seed=2, vector="mean"
    )


def sides(store):
    table = store.images(["label", "split"])
    words, splits = table["label"].to_pylist(), table["split"].to_pylist()
    labels = np.array([sorted(CLASSES).index(w) for w in words])
    train, test = (np.flatnonzero([s == name for s in splits]) for name in ("train", "test"))
    return train, test, labels


def test_with_all_images_both_probes_are_scikit_learns(measured, hard) -> None:
    train, test, labels = sides(hard)
    x = unit(hard["vision"].decoded("tokens", np.arange(300)).mean(axis=1))
    found = measured.found
    assert (found.train.rows.tolist(), found.test.rows.tolist()) == (train.tolist(), test.tolist())
    assert found.classes == tuple(sorted(CLASSES))
    for k in (5, 20):
        model = KNeighborsClassifier(k, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
        wanted = model.fit(x[train], labels[train]).predict(x[test])
        assert found.groups[f"knn-{k}/all"].tolist() == [wanted.tolist()]
    chosen = found.options["C of linear/all"]
    model = LogisticRegression(C=chosen, max_iter=1000)
    wanted = model.fit(x[train].astype(np.float64), labels[train]).predict(x[test].astype(np.float64))
    assert found.groups["linear/all"].tolist() == [wanted.tolist()]
    top = measured.report.metrics["linear/all"]["top-1"]
    assert top.value == pytest.approx((wanted == labels[test]).mean())
    assert top.low > measured.report.chance["linear/all"]["top-1"] == 1 / 4


def test_the_strength_is_the_best_on_what_was_held_out(measured) -> None:
    train = measured.found.train
    held = hold_out(train.labels, share=0.2, seed=2)
    assert held.sum() == pytest.approx(0.2 * len(held), abs=2)
    x, y = train.vectors.astype(np.float64), train.labels
    right = []
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=1000).fit(x[~held], y[~held])
        right.append((model.predict(x[held]) == y[held]).mean())
    chosen = STRENGTHS.index(measured.found.options["C of linear/all"])
    # The path goes on from the fit before, so an image on a boundary may fall to the other side.
    assert right[chosen] >= max(right) - 1 / held.sum() - 1e-9


def test_few_shots_are_the_mean_of_their_draws(measured) -> None:
    report, found = measured.report, measured.found
    assert list(report.metrics) == [
        *(f"knn-{k}/{s}" for s in ("1 shot", "4 shots", "all") for k in (5, 20)),
        *(f"linear/{s}" for s in ("1 shot", "4 shots", "all")),
    ]
    right = found.groups["linear/4 shots"] == found.test.labels
    assert right.shape == (3, 30)
    assert report.metrics["linear/4 shots"]["top-1"].value == pytest.approx(right.mean())
    recalls = [right[:, found.test.labels == c].mean() for c in np.unique(found.test.labels)]
    assert report.metrics["linear/4 shots"]["mean-per-class"].value == pytest.approx(np.mean(recalls))
    # Four images in all are fewer than 5 neighbours: all of them vote.
    assert np.array_equal(found.groups["knn-5/1 shot"], found.groups["knn-20/1 shot"])
    assert (report.head_sha256, report.text_card, report.task) == (None, None, "probe")
    assert report.options["vector"] == "mean"
    assert report.options["train_images"] == 240


def test_outcomes_of_the_images_recompute_the_figures(measured) -> None:
    for group, rows in measured.outcomes.items():
        wanted = {name: figure.value for name, figure in measured.report.metrics[group].items()}
        assert values_of(rows.sample, rows.statistics) == pytest.approx(wanted)


def test_more_images_help_and_labels_that_mean_nothing_do_not(measured, tmp_path) -> None:
    values = {group: figures["top-1"].value for group, figures in measured.report.metrics.items()}
    assert values["linear/all"] > values["linear/1 shot"]
    noise = write_random_store(tmp_path / "noise", images=500, seed=1, noise=1e4)
    figure = measure_probe(noise, shots=["all"], device="cpu").report.metrics["linear/all"]["top-1"]
    assert figure.low < 0.25 < figure.high
    assert figure.value < 0.4


def test_the_head_and_each_vector_of_the_encoder_are_read(store, head_dir) -> None:
    rows = np.array([5, 2, 9])
    feature, head = store["vision"], load_head(head_dir)

    def vectors(**given):
        options = {"on": None, "vector": None, "image": None, "split": "test", "device": "cpu", "rows": None}
        return open_space(store, given.pop("head", None), **(options | given)).vectors(rows)

    np.testing.assert_array_equal(vectors(head=head_dir), head.embed_images(feature, rows))
    cls, mean = feature.decoded("prefix", rows)[:, 0], feature.decoded("tokens", rows).mean(axis=1)
    for name, wanted in (
        ("pooled", feature.decoded("pooled", rows)),
        ("cls", cls),
        ("mean", mean),
        ("cls+mean", np.concatenate([unit(cls), unit(mean)], axis=1)),
    ):
        for given in ({}, {"head": head_dir, "on": "encoder"}):
            np.testing.assert_allclose(vectors(vector=name, **given), unit(wanted), atol=2e-6)


def test_merged_patches_are_weighed_in_the_mean(tmp_path) -> None:
    from embedstore.encode.recode import recode_feature

    store = write_random_store(tmp_path / "s", images=20, noise=3.0, policy="float32")
    recode_feature(store.path, "vision", policy="merge-3+float32", name="few")
    store = open_store(store.path)
    options = {"on": None, "split": "test", "device": "cpu", "rows": None}
    few, all_ = (
        open_space(store, None, vector="mean", image=name, **options).vectors(np.arange(20))
        for name in ("few", "vision")
    )
    np.testing.assert_allclose(few, all_, atol=1e-5)


def test_draws_hold_so_many_of_each_class_and_depend_on_the_seed() -> None:
    labels = np.array([0] * 10 + [1] * 3 + [2] * 6)
    rows = few_shots(labels, 4, seed=0)
    assert np.bincount(labels[rows]).tolist() == [4, 3, 4]
    assert rows.tolist() == few_shots(labels, 4, seed=0).tolist() != few_shots(labels, 4, seed=1).tolist()
    held = hold_out(np.array([0] * 10 + [1] * 2 + [2]), share=0.2, seed=0)
    assert [held[:10].sum(), held[10:12].sum(), held[12]] == [2, 1, False]


def test_rows_without_labels_and_classes_nobody_trains_on_are_counted(hard) -> None:
    space = open_space(hard, None, on=None, vector=None, image=None, split="test", device="cpu", rows=None)
    train, _, labels = sides(hard)
    asked = Asked(shots=("all",), methods=("knn",), neighbours=(5,), repeats=1, seed=0)
    found = probe(space, asked, split="test", train_split="train", train_rows=train[labels[train] != 1])
    assert len(found.classes) == 3
    assert found.skipped["an image whose label no training image has"] == 30 - len(found.test.rows) > 0
    assert found.skipped[NO_LABEL] == 0


def test_fits_that_do_not_converge_are_counted() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 5)).astype(np.float32), rng.integers(0, 3, 40)
    assert linear_path(x, y, held_out=x[:4], test=x[:6]).unfinished == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("embedstore.bench.probing.linear.ITERATIONS", 1)
        path = linear_path(x, y, held_out=x[:4], test=x[:6])
    assert path.unfinished == len(STRENGTHS)
    assert (path.held_out.shape, path.test.shape) == ((8, 4), (8, 6))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"shots": [0]}, r"bad shots[\s\S]*found: 0"),
        ({"shots": [1, 1]}, "each once"),
        ({"methods": ["svm"]}, r"bad methods[\s\S]*knn, linear"),
        ({"neighbours": []}, "bad neighbours"),
        ({"repeats": 0}, "bad repeats"),
        ({"on": "text"}, r"unknown place[\s\S]*encoder, head"),
        ({"on": "head"}, "a probe on the head needs one"),
        ({"vector": "max"}, r"no such vector[\s\S]*pooled, cls, mean, cls\+mean"),
        ({"image": "words"}, "feature of texts"),
        ({"split": None}, "trained and tested on"),
        ({"train_split": "dev"}, "no split 'dev'"),
    ],
)
def test_what_cannot_be_meant_is_refused(hard, given, words) -> None:
    with pytest.raises(UsageError, match=words):
        measure_probe(hard, device="cpu", **given)


def test_a_head_is_not_probed_on_the_split_that_chose_it(store, head_dir) -> None:
    with pytest.raises(UsageError, match="chosen on split 'val'"):
        measure_probe(store, head_dir, split="val", device="cpu")
    with pytest.raises(UsageError, match="one embedding of each image"):
        measure_probe(store, head_dir, vector="cls", device="cpu")


def test_the_command_prints_a_curve_of_shots(store, head_dir, run, tmp_path) -> None:
    ids = tmp_path / "few.txt"
    ids.write_text("\n".join(store.images(["id"])["id"].to_pylist()[:150]))
    out = tmp_path / "probe.json"
    code, printed, told = run(
        *("bench", "probe", store.path, "--head", head_dir, "--shots", "2,all", "--device", "cpu"),
        *("--train-rows", ids, "--repeats", "2", "--out", out),
    )
    assert (code, told.strip(), TASKS.load("probe")) == (0, "", measure_probe)
    assert "probe: 40 images, 4 classes, split test" in printed
    assert "linear/2 shots mean-per-class" in printed
    assert max(map(len, printed.splitlines())) <= 80 + len(str(tmp_path))
    report = BenchReport.from_json(out.read_text(), where=out)
    assert (report.options["on"], report.options["train_images"]) == ("head", 120)
    assert report.head_sha256 == load_head(head_dir).sha256
    code, printed, _ = run(
        *("bench", "probe", store.path, "--methods", "knn", "--shots", "all", "--device", "cpu", "--json"),
        *("--rows", ids),
    )
    assert (code, json.loads(printed)["images"]) == (0, 15)
    assert list(json.loads(printed)["metrics"]) == ["knn-10/all", "knn-20/all"]
    assert run("bench", "probe", store.path, "--shots", "few")[0] == 2
    code, printed, told = run(
        *("bench", "probe", store.path, "--methods", "knn", "--shots", "all", "--device", "cpu"),
        *("--csv", tmp_path / "table.csv"),
    )
    assert code == 2
    assert "CLIP_benchmark has no such figures" in told
    assert "knn-10/all top-1" in printed, "what was measured is not lost"


def test_draws_of_one_seed_are_none_of_the_next_ones() -> None:
    labels = np.arange(200) % 4

    def drawn(seed: int) -> set[tuple[int, ...]]:
        asked = Asked(shots=(3,), methods=("knn",), neighbours=(1,), repeats=5, seed=seed)
        return {tuple(rows.tolist()) for rows in few_shot_draws(labels, 3, asked)}

    assert len(drawn(0) | drawn(1)) == 10
