"""Prompts of a class's own, the two conventions, and zero-shot without a head."""

from __future__ import annotations

import csv
import dataclasses
import shutil

import numpy as np
import pytest
import torch

from embedstore.bench import confusion_csv, measure_all
from embedstore.bench.classes import class_prompts
from embedstore.bench.prompts import class_vectors, speaker_of
from embedstore.bench.setting import open_setting
from embedstore.bench.zeroshot import classify, measure_zeroshot
from embedstore.encode.apply import apply_head
from embedstore.errors import EncoderError, HeadError, UsageError
from embedstore.metrics.accuracy import confusion
from embedstore.model import load_head
from embedstore.store import layout
from embedstore.testing.stores import CLASSES, write_random_store
from embedstore.testing.texts import WordEncoder

SENTENCES = {
    "circle": ["a round thing", "no corners at all", "like a coin or a wheel"],
    "Square": "four equal sides",
    "star": ["a {} shines", "five points", "on a flag", "in the sky"],
    "cross": ["two bars", "plus"],
}
OF_CLASS = {
    "circle": SENTENCES["circle"],
    "square": ["four equal sides"],
    "star": ["a star shines", *SENTENCES["star"][1:]],
    "cross": SENTENCES["cross"],
}


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def slow_prompts(head_dir, encoder, texts) -> np.ndarray:
    """Unit vectors of texts, one at a time, float64."""
    head, found = load_head(head_dir), []
    for text in texts:
        tokens = torch.from_numpy(encoder.tokens(encoder.prepare([text])[0][0]))
        found.append(head.module.embed_text(tokens, torch.tensor([0, len(tokens)]))[0].double().numpy())
    return unit(np.stack(found))


@pytest.fixture
def setting(store, head_dir):
    return open_setting(store, head_dir, split="test", device="cpu", texts=False)


def vectors_of(setting, convention="clip-benchmark", **asked):
    prompts = class_prompts(setting.store, classes=list(OF_CLASS), **asked).prompts
    return class_vectors(speaker_of(setting), prompts, convention=convention)[0]


def test_each_class_has_its_own_number_of_sentences(setting, head_dir, encoder) -> None:
    found = vectors_of(setting, descriptions=SENTENCES)
    wanted = [unit(slow_prompts(head_dir, encoder, own).mean(axis=0)) for own in OF_CLASS.values()]
    np.testing.assert_allclose(found, np.stack(wanted), atol=1e-6)


def test_templates_and_sentences_count_alike(setting, head_dir, encoder) -> None:
    found = vectors_of(setting, descriptions=SENTENCES, templates=["one {}", "{}"])
    wanted = [
        unit(slow_prompts(head_dir, encoder, [f"one {name}", name, *own]).mean(axis=0))
        for name, own in OF_CLASS.items()
    ]
    np.testing.assert_allclose(found, np.stack(wanted), atol=1e-6)


def test_freeze_align_repeats_the_first_prompt_and_keeps_the_length(setting, head_dir, encoder) -> None:
    found = vectors_of(setting, "freeze-align", descriptions=SENTENCES)
    padded = [own + [own[0]] * (19 - len(own)) for own in OF_CLASS.values()]
    wanted = np.stack([slow_prompts(head_dir, encoder, own).mean(axis=0) for own in padded])
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert (np.linalg.norm(found, axis=1)[[0, 2, 3]] < 0.999).all()
    many = {name: [f"{name} {k}" for k in range(25 if name == "star" else 1)] for name in OF_CLASS}
    longest = vectors_of(setting, "freeze-align", descriptions=many)[2]
    np.testing.assert_allclose(longest, slow_prompts(head_dir, encoder, many["star"]).mean(axis=0), atol=1e-6)


def test_one_prompt_a_class_is_the_same_by_either_convention(store, head_dir, encoder, classes) -> None:
    given = {"classes": classes, "templates": ["one {}"], "device": "cpu"}
    reports = [
        measure_zeroshot(store, head_dir, convention=name, **given).report
        for name in ("clip-benchmark", "freeze-align")
    ]
    assert reports[0].metrics == reports[1].metrics
    assert [report.options["convention"] for report in reports] == ["clip-benchmark", "freeze-align"]
    with pytest.raises(UsageError, match=r"convention[\s\S]*clip-benchmark, freeze-align"):
        measure_zeroshot(store, head_dir, convention="clip", **given)


def test_batches_of_prompts_do_not_matter(setting, encoder, monkeypatch) -> None:
    whole = vectors_of(setting, descriptions=SENTENCES)
    monkeypatch.setattr("embedstore.bench.prompts.PROMPTS_AT_ONCE", 3)
    steps = []
    prompts = class_prompts(setting.store, classes=list(OF_CLASS), descriptions=SENTENCES).prompts
    found, _ = class_vectors(
        speaker_of(setting), prompts, on_progress=lambda done, total: steps.append((done, total))
    )
    np.testing.assert_allclose(found, whole, atol=1e-6)
    assert steps == [(3, 10), (6, 10), (9, 10), (10, 10)]


def test_a_class_without_sentence_needs_a_template(store) -> None:
    few = {"circle": ["round"], "unicorn": ["a horn"]}
    with pytest.raises(UsageError, match=r"2 of 3: square, star[\s\S]*templates"):
        class_prompts(store, classes=["circle", "square", "star"], descriptions=few)
    asked = class_prompts(store, classes=["circle", "square"], descriptions=few, templates=["a {}"])
    assert asked.prompts == (("a circle", "round"), ("a square",))
    assert asked.notes == ("1 of 2 described classes are not among the classes: unicorn",)
    assert asked.options["prompts"] == 3


def test_the_report_tells_sentences_and_words_apart(store) -> None:
    plain = class_prompts(store).options
    assert plain == {"prompts": 4}
    words = class_prompts(store, classes=["circle\tdisc"]).options
    other = class_prompts(store, classes=["circle\tround disc"]).options
    assert words["words_sha256"] != other["words_sha256"]
    lists = [class_prompts(store, classes=["circle", more]).options for more in ("unicorn", "griffin")]
    assert lists[0]["words_sha256"] != lists[1]["words_sha256"]
    told = [class_prompts(store, descriptions={key: [x] for key in CLASSES}).options for x in ("a", "b")]
    assert told[0]["descriptions_sha256"] != told[1]["descriptions_sha256"]
    with pytest.raises(UsageError, match=r"not a list of classes[\s\S]*imagenet"):
        class_prompts(store, classes="imagnet")


def test_confusion_is_told_in_short_and_whole(store, head_dir, encoder, classes) -> None:
    found = classify(open_setting(store, head_dir, split="test", device="cpu"), split="test", classes=classes)
    measured = measure_zeroshot(store, head_dir, classes=classes, device="cpu")
    table = np.zeros((4, 4), dtype=np.int64)
    for own, called in zip(found.labels, found.predicted, strict=True):
        table[own, called] += 1
    assert found.confusion.tolist() == table.tolist()
    lines = list(csv.reader(confusion_csv(found).splitlines()))
    assert lines[0] == ["label", *classes]
    assert [line[0] for line in lines[1:]] == classes
    assert [[int(n) for n in line[1:]] for line in lines[1:]] == table.tolist()
    wrong = {(i, j): table[i, j] for i, j in np.ndindex(4, 4) if i != j and table[i, j]}
    assert wrong, "a head that is never wrong shows nothing"
    told = {(classes.index(p.label), classes.index(p.taken_for)): p for p in measured.report.confused}
    assert {pair: one.images for pair, one in told.items()} == wrong
    assert all(one.of == table[pair[0]].sum() for pair, one in told.items())
    assert [p.images for p in measured.report.confused] == sorted(wrong.values(), reverse=True)


def test_scores_are_those_of_the_predicted_and_of_the_own_class(store, head_dir, encoder, classes) -> None:
    found = measure_zeroshot(store, head_dir, classes=classes, device="cpu").found
    images = load_head(head_dir).embed_images(store["vision"], found.rows).astype(np.float64)
    scores = images @ found.vectors.T.astype(np.float64)
    np.testing.assert_allclose(found.scores, scores.max(axis=1), atol=1e-6)
    every = np.arange(len(scores))
    np.testing.assert_allclose(found.own_scores, scores[every, found.labels], atol=1e-6)
    right = found.predicted == found.labels
    assert (found.scores[right] == found.own_scores[right]).all()
    assert confusion(found.predicted, found.labels, 4).sum() == len(found.rows)


def test_of_equal_classes_the_first_is_predicted(store, head_dir, encoder) -> None:
    """Four classes of one and the same prompt: every image goes to the first, whichever is its own."""
    found = measure_zeroshot(
        store, head_dir, descriptions=dict.fromkeys(CLASSES, "thing"), device="cpu"
    ).found
    assert (found.predicted == 0).all()
    assert (found.ranks == found.labels + 1).all()
    assert (found.scores == found.own_scores).all()
    assert found.confusion[:, 1:].sum() == 0


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """A store whose two features are of one width, as those of a two-tower model."""
    return write_random_store(
        tmp_path_factory.mktemp("towers") / "store", images=100, text_width=16, seed=9, noise=0.2
    )


@pytest.fixture
def tower(towers, monkeypatch):
    found = WordEncoder(towers["words"].card)
    monkeypatch.setattr("embedstore.bench.prompts.encoder_for_card", lambda *_, **__: found)
    monkeypatch.setattr("embedstore.bench.setting.load_text_encoder", lambda *_, **__: found)
    return found


def slow_tower(towers, tower) -> tuple[float, int]:
    """top-1 of stored pooled images against pooled prompts, float64."""
    table = towers.images().to_pylist()
    rows = [i for i, line in enumerate(table) if line["split"] == "test"]
    v = unit(towers["vision"].decoded("pooled", np.array(rows)).astype(np.float64))
    names = sorted(CLASSES)
    u = unit(
        np.stack([tower.tokens(tower.prepare([f"a photo of a {n}."])[0][0])[0] for n in names]).astype(float)
    )
    return float(np.mean((v @ u.T).argmax(axis=1) == [names.index(table[i]["label"]) for i in rows]))


@pytest.mark.parametrize("given", [{"text": "words"}, {"text_encoder": "hf:somewhere"}])
def test_two_towers_need_no_head(towers, tower, given) -> None:
    report = measure_zeroshot(towers, image="vision", device="cpu", **given).report
    assert report.metrics["image_to_class"]["top-1"].value == pytest.approx(slow_tower(towers, tower))
    assert (report.images, report.head_sha256, report.text_card) == (10, None, tower.card)
    assert report.image_card == towers["vision"].card


def test_two_towers_that_cannot_be_one_model_are_refused(towers, store, tower) -> None:
    with pytest.raises(UsageError, match=r"--text-encoder SPEC"):
        measure_zeroshot(towers, image="vision", device="cpu")
    with pytest.raises(UsageError, match="feature of texts"):
        measure_zeroshot(towers, image="words", text_encoder="hf:x", device="cpu")
    with pytest.raises(HeadError, match="widths 16 and 12"):
        measure_zeroshot(store, image="vision", text="words", device="cpu")
    tower.card = tower.card.model_copy(update={"pooled_width": 12})
    with pytest.raises(HeadError, match="widths 16 and 12"):
        measure_zeroshot(towers, image="vision", text_encoder="hf:x", device="cpu")


@pytest.fixture
def applied(store, head_dir, tmp_path):
    """The store of the fixture again, with the head's joint embeddings in it."""
    own = write_random_store(tmp_path / "own", images=400, captions=3, seed=5, noise=0.2)
    apply_head(head_dir, own.path, name="joint", policy="float32", device="cpu")
    return own


def test_joint_embeddings_that_the_head_made_serve_as_its_images(store, head_dir, encoder, applied) -> None:
    direct = measure_zeroshot(store, head_dir, device="cpu")
    stored = measure_zeroshot(applied.path, head_dir, image="joint", device="cpu")
    assert stored.found.setting.image.name == "joint"
    assert stored.report.metrics == direct.report.metrics
    np.testing.assert_allclose(stored.found.scores, direct.found.scores, atol=1e-6)
    with pytest.raises(HeadError, match=r"through the head[\s\S]*--head DIR"):
        measure_zeroshot(applied.path, image="joint", text="joint-texts", device="cpu")


def test_a_head_needs_no_texts_in_the_store(store, head_dir, encoder, monkeypatch) -> None:
    plain = measure_zeroshot(store, head_dir, device="cpu").report
    setting = open_setting(store, head_dir, split="test", device="cpu", texts=False)
    assert setting.text_feature is None
    assert setting.report_fields()["text_card"] == store["words"].card == plain.text_card
    with pytest.raises(UsageError, match="reads texts"):
        _ = setting.text
    with pytest.raises(UsageError, match="which text encoder"):
        speaker_of(dataclasses.replace(setting, text_card=None))


def test_a_store_without_encoded_texts_is_measured_by_all_tasks_that_need_none(
    head_dir, encoder, tmp_path
) -> None:
    bare = write_random_store(tmp_path / "bare", images=60, seed=5)
    shutil.rmtree(layout.feature(bare.path, "words"))
    found = measure_all(bare.path, head_dir, tasks=["retrieval", "zeroshot", "multilingual"], device="cpu")
    assert list(found.measured) == ["zeroshot"]
    assert "no feature of the text encoder" in found.left_out["retrieval"]
    assert "texts of one language" in found.left_out["multilingual"]
    assert found.measured["zeroshot"].report.images == 6


def test_an_unknown_encoder_of_a_tower_is_asked_for(towers) -> None:
    with pytest.raises(EncoderError, match="--text-encoder"):
        measure_zeroshot(towers, image="vision", text="words", device="cpu")
