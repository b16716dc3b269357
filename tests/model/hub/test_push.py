"""A head published: as a folder, and through huggingface_hub to a hub on the loopback."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

import embedstore
from embedstore.bench import bench_retrieval, write_report
from embedstore.errors import HeadError, HubError, UsageError
from embedstore.fit import fit_config, fit_head
from embedstore.model import load_head
from embedstore.model.hub import hub_name
from embedstore.model.model_card import model_card
from embedstore.model.publishing import push_head as push
from embedstore.testing.stores import write_random_store

# huggingface_hub gives its HTTP library an open file in a way that this is giving up.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
FILES = ["README.md", "fit.json", "head.json", "head.safetensors"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("published")
    store = write_random_store(place / "store", images=30)
    chosen = fit_config(image="vision", text="words", width=8, epochs=1, batch_size=10, seed=3)
    head = fit_head(store, chosen, place / "head", device="cpu").out
    report = place / "retrieval.json"
    write_report(bench_retrieval(str(place / "store"), head, split=None, device="cpu"), report)
    return place, head, report


@pytest.fixture
def head(made):
    return made[1]


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path):
    """Where no folder has the name of a user of the hub."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def files_of(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_folder_holds_the_head_its_card_and_no_place_of_this_machine(run, made, tmp_path):
    place, head, report = made
    out = tmp_path / "hub" / "my-head"
    code, said, err = run("push", head, "--to", out, "--report", report, "--license", "apache-2.0")
    assert (code, err) == (0, "")
    assert str(out) in said
    assert files_of(out) == sorted([*FILES, "bench/retrieval.json"])
    assert [path.name for path in out.parent.iterdir()] == ["my-head"]
    for path in files_of(out):
        assert str(place).encode() not in (out / path).read_bytes(), path
    card = (out / "README.md").read_text(encoding="utf-8")
    _, front, body = card.split("---\n", 2)
    fields = yaml.safe_load(front)
    assert fields["library_name"] == "embedstore"
    assert fields["license"] == "apache-2.0"
    assert fields["language"] == ["en"]
    assert "embedstore-token" in fields["tags"]
    config = load_head(head).config
    for words in (
        config.image_card.model,
        config.text_card.weights_sha256[:12],
        "seed 3",
        "embedstore.load(",
    ):
        assert words in body
    measured = json.loads(report.read_text())["metrics"]["image_to_text"]["recall@1"]
    assert f"| image to text recall@1 | {measured['value']:.1%} |" in body
    rows = np.arange(4)
    found, wanted = load_head(out), load_head(head)
    feature = embedstore.open_store(place / "store")["vision"]
    assert np.array_equal(found.embed_images(feature, rows), wanted.embed_images(feature, rows))


def test_the_card_tells_which_rows_were_fitted_on_and_measured(made, tmp_path):
    place, _, _ = made
    store = embedstore.open_store(place / "store")
    ids = store.images(["id"])["id"].to_pylist()
    for name, some in (("a", ids[:20]), ("b", ids[20:])):
        (tmp_path / f"{name}.txt").write_text("\n".join(some))
    a, b = str(tmp_path / "a.txt"), str(tmp_path / "b.txt")
    chosen = fit_config(image="vision", text="words", width=8, epochs=1, batch_size=10, rows=a)
    head = fit_head(store, chosen, tmp_path / "head", device="cpu").out
    write_report(bench_retrieval(store, head, split=None, device="cpu", rows=b), tmp_path / "r.json")
    push(head, tmp_path / "out", reports=[tmp_path / "r.json"])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- of these only: `a.txt` (20 images)" in card
    assert ", all rows, of these only `b.txt` (10 images), store" in card
    assert str(tmp_path) not in card


def test_the_card_names_no_place_for_encoders_that_are_in_the_package(made):
    head = load_head(made[1])
    own = head.config.image_card.model_copy(update={"library": "transformers", "model": "vit-scenes"})
    other = own.model_copy(update={"model": "my-vit"})
    for card, lines in ((own, 0), (other, 1)):
        config = head.config.model_copy(update={"image_card": card})
        told = model_card(replace(head, config=config), None, [])
        assert told.count('image_encoder="hf:FOLDER"') == lines


def test_a_folder_with_other_files_is_replaced_only_on_request(made, tmp_path):
    _, head, report = made
    out = tmp_path / "out"
    assert push(head, out).changed == tuple(FILES)
    assert push(head, out).unchanged == tuple(FILES)
    (out / "README.md").write_text("mine")
    with pytest.raises(UsageError, match=r"(?s)not empty.*README\.md.*--overwrite"):
        push(head, out)
    assert (out / "README.md").read_text() == "mine"
    assert set(push(head, out, reports=[report], overwrite=True).changed) == {
        "README.md",
        "bench/retrieval.json",
    }
    with pytest.raises(UsageError, match="the output is a file"):
        push(head, out / "README.md")
    with pytest.raises(UsageError, match=r"(?s)only the hub.*private.*user/name"):
        push(head, tmp_path / "other", private=True)


def test_a_report_of_another_head_and_half_a_head_are_refused(made, tmp_path):
    _, head, report = made
    other = json.loads(report.read_text()) | {"head_sha256": "1" * 64}
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(UsageError, match=r"(?s)other\.json: the report is of another head.*111111"):
        push(head, tmp_path / "out", reports=[tmp_path / "other.json"])
    with pytest.raises(UsageError, match="two reports of one task"):
        push(head, tmp_path / "out", reports=[report, report])
    with pytest.raises(UsageError, match="identifier of a licence"):
        push(head, tmp_path / "out", licence="the MIT one\ntags: [x]")
    with pytest.raises(HeadError, match="no finished head"):
        push(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("ann/head", "ann/head"),
        ("hf:ann/head", "ann/head"),
        ("./ann/head", None),
        ("head", None),
        ("a/b/c", None),
        ("here/head", None),
        ("s3://a/b", None),
    ],
)
def test_which_places_are_on_the_hub(text, name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert hub_name(text) == name
    assert hub_name(Path(text)) is None


def test_a_path_with_a_dot_is_a_folder_to_every_command(run, hub, head, monkeypatch, tmp_path):
    """Also where it is not there: the hub is not asked."""
    push(head, "ann/head")
    monkeypatch.chdir(tmp_path)
    asked = len(hub.asked)
    for command in (
        ("apply", "./ann/head", "store", "--as", "joint"),
        ("bench", "retrieval", "store", "--head", "./ann/head"),
        ("bench", "zeroshot", "store", "--head", "./ann/head"),
        ("search", "store", "words", "--head", "./ann/head"),
        ("onnx", "./ann/head", "--out", "out"),
        ("push", "./ann/head", "--to", "./out"),
    ):
        store = head.parent / "store"
        code, _, err = run(*(store if word == "store" else word for word in command))
        assert code == 1
        assert "no finished head here" in err
    assert len(hub.asked) == asked
    code, _, err = run("push", "ann/head", "--to", "./copy")
    assert code == 0, err
    assert load_head("./copy").sha256 == load_head(head).sha256


@pytest.mark.parametrize(
    "text", ["ann/he--ad", "hf:head", "hf:ann/my head", "ann/head.git", "ann/a..b", "hf:../x"]
)
def test_names_that_no_hub_has(text):
    with pytest.raises(UsageError, match=r"(?s)not the name of a model.*user/name"):
        hub_name(text)


def test_pushed_and_loaded_again_by_its_name(run, hub, made):
    place, head, report = made
    code, said, _ = run("push", head, "--to", "ann/head", "--report", report, "--message", "First", "--json")
    assert code == 0
    assert json.loads(said)["url"] == f"{hub.url}/ann/head"
    assert sorted(hub.models["ann/head"]["branches"]["main"]) == sorted([*FILES, "bench/retrieval.json"])
    assert hub.models["ann/head"]["branches"]["main"]["head.safetensors"] in hub.large.values()
    assert hub.models["ann/head"]["private"] is False
    assert [commit["summary"] for commit in hub.commits] == ["First"]
    assert b'embedstore.load("ann/head"' in hub.models["ann/head"]["branches"]["main"]["README.md"]

    found = load_head("ann/head")
    assert found.sha256 == load_head(head).sha256
    asked = len(hub.asked)
    assert load_head("ann/head", offline=True).sha256 == found.sha256
    assert len(hub.asked) == asked
    code, _, err = run("bench", "retrieval", place / "store", "--head", "ann/head", "--split", "all")
    assert code == 0, err


def test_files_that_are_there_are_not_uploaded_again(hub, made):
    _, head, report = made
    push(head, "ann/head")
    hub.uploads.clear()
    again = push(head, "ann/head")
    assert (again.changed, again.commit) == ((), None)
    assert again.unchanged == tuple(FILES)
    assert (len(hub.commits), hub.uploads) == (1, [])
    assert push(head, "ann/head", reports=[report]).changed == ("README.md", "bench/retrieval.json")
    assert sorted(hub.uploads) == ["README.md", "bench/retrieval.json"]


def test_private_models_and_branches(hub, head, monkeypatch):
    push(head, "ann/head", private=True, revision="second")
    assert hub.models["ann/head"]["private"] is True
    branches = hub.models["ann/head"]["branches"]
    assert (sorted(branches["second"]), branches["main"]) == (FILES, {})
    assert load_head("ann/head", revision="second").config.head == "token"
    with pytest.raises(HubError, match="no such revision"):
        load_head("ann/head", revision="third")
    push(head, "ann/open")
    with pytest.raises(HubError, match=r"(?s)already, and public.*without --private"):
        push(head, "ann/open", private=True)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match=r"(?s)neither a folder here nor a model.*HF_TOKEN"):
        load_head("ann/head")


def test_a_folder_of_this_name_comes_first(hub, head, tmp_path):
    push(head, "ann/head")
    asked = len(hub.asked)
    push(head, tmp_path / "here" / "ann" / "head")
    assert load_head("ann/head").sha256 == load_head(head).sha256
    assert len(hub.asked) == asked
    assert load_head("hf:ann/head").sha256 == load_head(head).sha256
    assert len(hub.asked) > asked
    with pytest.raises(UsageError, match="a folder has no revisions"):
        load_head("ann/head", revision="main")


def test_nobody_is_logged_in(hub, head, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(
        HubError, match=r"(?s)ann/head: nobody is logged in.*HF_TOKEN; a folder is .*\./ann/head"
    ):
        push(head, "ann/head")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HubError, match="does not accept the token"):
        push(head, "ann/head")
    assert hub.models == {}


@pytest.mark.parametrize(
    ("part", "status", "words"),
    [
        ("repos/create", 403, "does not let you write"),
        ("/preupload/", 403, "does not let you write"),
        ("/commit/", 413, "cannot write this model"),
        ("/large/", 400, "cannot"),
    ],
)
def test_a_refusal_leaves_no_half_model(run, hub, head, part, status, words):
    hub.refusals[part] = status
    code, _, err = run("push", head, "--to", "ann/head")
    assert code == 1
    assert words in err
    assert all(not files for m in hub.models.values() for files in m["branches"].values())
    hub.refusals.clear()
    assert push(head, "ann/head").changed == tuple(FILES)


def test_a_model_that_is_not_there(hub):
    with pytest.raises(HubError, match=r"(?s)ann/nothing: neither a folder here nor a model on the hub"):
        load_head("ann/nothing")


def test_the_network_is_gone(hub, head):
    push(head, "ann/head")
    load_head("ann/head")
    hub.stop()
    with pytest.raises(HubError, match="cannot be reached"):
        push(head, "ann/head")
    with pytest.raises(HubError, match=r"(?s)cannot be reached.*cache has no such model"):
        load_head("ann/other")
    assert load_head("ann/head").config.head == "token"


def test_weights_that_were_changed_on_the_hub_are_found(hub, head):
    push(head, "ann/head")
    files = hub.models["ann/head"]["branches"]["main"]
    files["head.safetensors"] = files["head.safetensors"][:-1] + b"\x7f"
    with pytest.raises(HeadError, match="not those of this head"):
        load_head("ann/head")


def test_a_model_without_a_head(hub):
    hub.models["ann/other"] = {"private": False, "branches": {"main": {"config.json": b"{}"}}}
    with pytest.raises(HeadError, match="no finished head"):
        load_head("ann/other")
