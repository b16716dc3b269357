"""`bench zeroshot` and `bench multilingual` as a user types them."""

from __future__ import annotations

import csv
import json

import pytest

from embedstore.testing.stores import CLASSES, write_random_store

NAMES = {"en": {name: name for name in CLASSES}, "de": dict.fromkeys(CLASSES, "Ding")}


@pytest.fixture
def zeroshot(run, store, head_dir, encoder):
    def call(*more):
        return run("bench", "zeroshot", store.path, "--head", head_dir, "--device", "cpu", *more)

    return call


def widest(text: str) -> int:
    """Of the lines that do not end with the place of a file."""
    return max(len(line) for line in text.splitlines() if "/" not in line)


def test_sentences_conventions_and_the_matrix(zeroshot, tmp_path) -> None:
    sentences = tmp_path / "vdt.json"
    sentences.write_text(json.dumps({name: [f"one {name}", f"this is a {name}"] for name in CLASSES}))
    matrix, out = tmp_path / "matrix.csv", tmp_path / "report.json"
    more = ("--descriptions", sentences, "--convention", "freeze-align", "--confusion", matrix, "--out", out)
    code, text, err = zeroshot(*more)
    assert code == 0, err
    report = json.loads(out.read_text())
    assert report["options"]["convention"] == "freeze-align"
    assert report["options"]["prompts"] == 8
    assert report["templates"] == []
    assert widest(text) <= 80
    assert "recall of each class" in text
    lines = list(csv.reader(matrix.read_text().splitlines()))
    assert sum(int(n) for line in lines[1:] for n in line[1:]) == report["images"] == 40
    diagonal = sum(int(lines[k + 1][k + 1]) for k in range(len(lines) - 1))
    assert diagonal / 40 == pytest.approx(report["metrics"]["image_to_class"]["top-1"]["value"])
    told = report["confused"][0]
    assert f"{told['images']} of {told['of']}" in text


def test_json_is_one_document(zeroshot, tmp_path) -> None:
    code, text, _ = zeroshot("--json", "--confusion", tmp_path / "m.csv")
    assert code == 0
    assert json.loads(text)["task"] == "zeroshot"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--convention", "clip"), "clip-benchmark, freeze-align"),
        (("--confusion", "nowhere/m.csv"), "cannot write the file"),
        (("--seed", "-1"), "'--seed': Input should be greater than or equal to 0"),
        (("--descriptions", "nowhere.json"), "cannot read the file as JSON"),
        (("--templates", "nowhere.txt"), "cannot read the file as UTF-8"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(zeroshot, more, words) -> None:
    code, text, err = zeroshot(*more)
    assert (code, text) == (2, "")
    assert words in " ".join(err.split())
    assert "Traceback" not in err


@pytest.mark.parametrize("task", ["retrieval", "negatives", "probe", "segment", "all"])
def test_a_place_for_the_report_is_tried_before_the_store(run, task) -> None:
    code, _, err = run("bench", task, "no.store", "--head", "none", "--out", "nowhere/report.json")
    assert code == 2
    assert "nowhere/report.json: cannot write the file" in err


def test_imagenets_classes_and_templates_are_a_word(zeroshot, encoder, monkeypatch) -> None:
    synsets = {f"n0000000{k}": f"{name}, round or not" for k, name in enumerate(CLASSES)}
    words = tuple(f"painted {name}" for name in CLASSES)
    monkeypatch.setattr("embedstore.model.imagenet._names", lambda: (synsets, words))
    monkeypatch.setattr("embedstore.model.imagenet.imagenet_templates", lambda: ("my {}", "the {}"))
    code, text, err = zeroshot("--classes", "imagenet", "--templates", "imagenet", "--json")
    assert code == 0, err
    report = json.loads(text)
    assert encoder.seen == [f"{form} painted {name}" for name in CLASSES for form in ("my", "the")]
    assert (report["options"]["classes"], report["options"]["labels"]) == ("imagenet", "first names")
    assert (report["options"]["templates"], report["images"]) == ("imagenet", 40)


def test_languages_are_lines_and_averages_last(run, head_dir, encoder, tmp_path) -> None:
    store = write_random_store(
        tmp_path / "spoken", images=60, captions=3, seed=5, languages=("en", "de", "fr")
    )
    names, out = tmp_path / "names.json", tmp_path / "report.json"
    names.write_text(json.dumps(NAMES))
    command = ("bench", "multilingual", store.path, "--head", head_dir, "--device", "cpu", "--split", "all")
    code, text, err = run(*command, "--classes", names, "--out", out)
    assert code == 0, err
    lines = [line.split() for line in text.splitlines()]
    assert [line[0] for line in lines[2:7]] == ["de", "en", "fr", "average", "average-without-en"]
    assert widest(text) <= 80
    report = json.loads(out.read_text())
    shown = 100 * report["metrics"]["image_to_class/average"]["top-1"]["value"]
    assert lines[5][-1] == f"{shown:.1f}"
    assert len(lines[4]) == 7, "no class names in French"
    code, text, _ = run(*command, "--languages", "fr,de", "--json")
    assert json.loads(text)["options"]["languages"] == "fr,de"
    code, _, err = run(*command, "--languages", "fr,")
    assert code == 2
    assert "not a list of names" in err
