from __future__ import annotations

import numpy as np
import pytest
import torch

from embedstore.bench import TASKS, bench_zeroshot
from embedstore.bench.classes import class_prompts
from embedstore.bench.prompts import class_vectors, speaker_of
from embedstore.bench.rows import NO_LABEL, OTHER_LABEL
from embedstore.bench.setting import open_setting
from embedstore.bench.zeroshot import classify, zeroshot_report
from embedstore.documents import FitConfig
from embedstore.errors import EncoderError, UsageError
from embedstore.fit import fit_head
from embedstore.model import load_head

TEMPLATES = ["a photo of a {}.", "one {}"]


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def slow_class_vectors(head_dir, encoder, classes, templates) -> np.ndarray:
    """One prompt at a time, then mean and norm in float64."""
    head, vectors = load_head(head_dir), []
    for name in classes:
        prompts = []
        for template in templates:
            ids, _ = encoder.prepare([template.format(name)])
            tokens = torch.from_numpy(encoder.tokens(ids[0]))
            prompts.append(head.module.embed_text(tokens, torch.tensor([0, len(tokens)]))[0].double().numpy())
        vectors.append(unit(unit(np.stack(prompts)).mean(axis=0)))
    return np.stack(vectors)


def vectors_of(setting, classes, templates):
    """What the task makes of the prompts."""
    asked = class_prompts(setting.store, classes=classes, templates=templates)
    return class_vectors(speaker_of(setting), asked.prompts)


def test_class_embeddings_are_normalised_means_of_normalised_prompts(
    store, head_dir, encoder, classes
) -> None:
    setting = open_setting(store, head_dir, split="test", device="cpu")
    found, cut = vectors_of(setting, classes, TEMPLATES)
    np.testing.assert_allclose(found, slow_class_vectors(head_dir, encoder, classes, TEMPLATES), atol=1e-6)
    assert cut == 0


@pytest.mark.parametrize("score", ["both", "first"])
def test_a_class_of_several_prompts_has_each_order_at_its_weight(
    store, encoder, classes, tmp_path, score
) -> None:
    options = {"lambda1": 0.3, "reduced": 4, "score": score}
    config = FitConfig(head="dalip", image="vision", text="words", width=8, epochs=1, options=options)
    fit_head(store, config, tmp_path / "head", device="cpu")
    setting = open_setting(store, tmp_path / "head", split="test", device="cpu")
    found, _ = vectors_of(setting, classes, TEMPLATES)
    head = setting.head.module
    head.options = head.options.model_copy(update={"score": "both"})
    wanted = []
    for name in classes:
        tokens = [
            torch.from_numpy(encoder.tokens(encoder.prepare([t.format(name)])[0][0])) for t in TEMPLATES
        ]
        joint = np.concatenate([head.embed_text(t, torch.tensor([0, len(t)])).double() for t in tokens])
        first, second = (unit(unit(side).mean(axis=0)) for side in (joint[:, :8], joint[:, 8:]))
        wanted.append(first if score == "first" else np.concatenate([0.3**0.5 * first, 0.7**0.5 * second]))
    np.testing.assert_allclose(found, np.stack(wanted), atol=1e-6)


def test_accuracy_equals_the_slow_twin(store, head_dir, encoder, classes) -> None:
    report = bench_zeroshot(store, head_dir, split="test", classes=classes, templates=TEMPLATES, device="cpu")
    table = store.images().to_pylist()
    rows = [i for i, line in enumerate(table) if line["split"] == "test"]
    labels = np.array([classes.index(table[i]["label"]) for i in rows])
    v = load_head(head_dir).embed_images(store["vision"], np.array(rows)).astype(np.float64)
    predicted = (v @ slow_class_vectors(head_dir, encoder, classes, TEMPLATES).T).argmax(axis=1)
    right = predicted == labels
    per_class = {name: right[labels == c].mean() for c, name in enumerate(classes) if (labels == c).any()}
    figures = report.metrics["image_to_class"]
    assert figures["top-1"].value == pytest.approx(right.mean())
    assert figures["top-5"].value == 1.0
    assert figures["mean-per-class"].value == pytest.approx(np.mean(list(per_class.values())))
    assert {name: f.value for name, f in report.per_class.items()} == pytest.approx(per_class)
    assert report.chance["image_to_class"] == {"top-1": 0.25, "top-5": 1.0, "mean-per-class": 0.25}
    assert (report.images, report.classes, report.templates) == (40, 4, tuple(TEMPLATES))


def test_without_a_list_the_classes_are_the_labels_of_the_store(store, head_dir, encoder, classes) -> None:
    report = bench_zeroshot(store, head_dir, device="cpu")
    assert report.classes == 4
    assert encoder.seen == [f"a photo of a {name}." for name in sorted(classes)]
    again = bench_zeroshot(store, head_dir, classes=sorted(classes), device="cpu")
    assert "words_sha256" in again.options
    assert again.model_copy(update={"options": report.options}).to_json() == report.to_json()


def test_a_label_outside_the_list_is_counted_and_a_class_without_images_noted(
    store, head_dir, encoder
) -> None:
    report = bench_zeroshot(store, head_dir, classes=["circle", "unicorn", "star"], device="cpu")
    labels = [x["label"] for x in store.images().to_pylist() if x["split"] == "test"]
    assert report.skipped == {OTHER_LABEL: sum(label not in ("circle", "star") for label in labels)}
    assert report.images == 40 - report.skipped[OTHER_LABEL]
    assert report.notes == ("1 of 3 classes have no image here; mean-per-class leaves them out",)
    assert list(report.per_class) == ["circle", "star"]
    assert report.chance["image_to_class"]["top-1"] == pytest.approx(1 / 3)


def test_words_of_a_class_stand_in_its_prompts_and_its_label_in_the_report(store, head_dir, encoder) -> None:
    report = bench_zeroshot(store, head_dir, classes=["circle\tround thing", "star"], device="cpu")
    assert encoder.seen == ["a photo of a round thing.", "a photo of a star."]
    assert list(report.per_class) == ["circle", "star"]


def test_one_class_is_always_right(store, head_dir, encoder) -> None:
    report = bench_zeroshot(store, head_dir, classes=["star"], device="cpu")
    assert report.metrics["image_to_class"]["top-1"].value == 1.0
    assert report.chance["image_to_class"]["top-1"] == 1.0


def test_images_without_a_label_are_counted(store, head_dir, encoder, monkeypatch) -> None:
    table = store.images()
    rows = np.flatnonzero(np.array(table["split"].to_pylist()) == "test")
    labels = [None if i in rows[:3] else label for i, label in enumerate(table["label"].to_pylist())]
    bare = table.set_column(table.column_names.index("label"), "label", [labels])
    monkeypatch.setattr(type(store), "images", lambda self, columns: bare.select(columns))
    assert bench_zeroshot(store, head_dir, device="cpu").skipped == {NO_LABEL: 3}


def test_prompts_that_were_cut_are_noted(store, head_dir, encoder, classes) -> None:
    setting = open_setting(store, head_dir, split="test", device="cpu")
    found = classify(
        setting, split="test", classes=classes, templates=["a very long text about one {} and no other thing"]
    )
    assert zeroshot_report(found, split="test", seed=0).notes == (
        "4 of 4 prompts were cut at the tokenizer's limit",
    )


def test_classes_that_no_image_has_are_refused_with_the_labels(store, head_dir, encoder) -> None:
    with pytest.raises(UsageError, match=r"labels circle, cross, square, star[\s\S]*allowed: unicorn"):
        bench_zeroshot(store, head_dir, classes=["unicorn"], device="cpu")


def test_an_encoder_that_is_not_known_is_asked_for(store, head_dir, classes) -> None:
    with pytest.raises(EncoderError, match="--text-encoder"):
        bench_zeroshot(store, head_dir, classes=classes, device="cpu")


def test_every_task_of_the_table_loads() -> None:
    assert {name: TASKS.load(name).__name__ for name in ("retrieval", "zeroshot")} == {
        "retrieval": "measure_retrieval",
        "zeroshot": "measure_zeroshot",
    }
