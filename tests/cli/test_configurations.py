"""Equal tensors with another configuration: refused by every command that would mix their features."""

import json
import shutil

import pytest

from embedstore.documents import FeatureHeader
from embedstore.store import open_store, verify_store
from embedstore.store.layout import HEADER, MANIFEST, feature


@pytest.fixture
def other(tiny_vision, tmp_path):
    """The tensors of `tiny_vision` with four heads in place of two."""
    shutil.copytree(tiny_vision, tmp_path / "other")
    config = json.loads((tiny_vision / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(config | {"num_attention_heads": 4}))
    return tmp_path / "other"


@pytest.fixture
def halves(tmp_path, picture_folder):
    """Two tables of fifty pictures each."""
    head, *lines = (picture_folder / "captions.csv").read_text().splitlines()
    for name, some in (("one", lines[:100]), ("two", lines[100:])):
        (picture_folder / f"{name}.csv").write_text("\n".join([head, *some]) + "\n")
    return picture_folder / "one.csv", picture_folder / "two.csv"


def test_every_command_refuses(run, halves, tmp_path, tiny_vision, tiny_words, other):
    one, two = halves
    encoders = ["--image-encoder", f"vision=hf:{tiny_vision}", "--text-encoder", f"words=hf:{tiny_words}"]
    wrong = ["--image-encoder", f"vision=hf:{other}", "--text-encoder", f"words=hf:{tiny_words}"]
    assert run("encode", one, tmp_path / "A", *encoders)[0] == 0
    code, _, err = run("encode", one, tmp_path / "A", *wrong)
    assert code == 1
    assert "card.probe" in err
    assert "equal tensors, another configuration" in " ".join(err.split())
    code, _, err = run("encode", two, tmp_path / "B", "--append", tmp_path / "A", *wrong[:2])
    assert code == 1
    assert "not the encoder that made the feature" in err
    assert not (tmp_path / "B").exists()

    assert run("encode", two, tmp_path / "B", *wrong)[0] == 0
    both = f"{tmp_path}/A+{tmp_path}/B"
    fit = ["fit", both, "--image", "vision", "--text", "words", "--width", 8, "--epochs", 1]
    code, _, err = run(*fit, "--out", tmp_path / "h")
    assert code == 1
    assert "is not the same in these stores" in err
    assert "card.probe" in err
    assert run("fit", tmp_path / "A", *fit[2:], "--out", tmp_path / "h")[0] == 0
    for store, wanted in (("A", 0), ("B", 1)):
        code, _, err = run(
            "bench", "retrieval", tmp_path / store, "--head", tmp_path / "h", "--split", "test"
        )
        assert code == wanted, err
    assert "no feature of the image encoder that the head was fitted for" in err
    assert "vision.probe" in err


def test_a_run_goes_on_where_last_digits_differ(run, halves, tmp_path, tiny_vision):
    """As on another machine: the header that is there stands, and nothing is made twice."""
    store, arguments = tmp_path / "A", ["--image-encoder", f"vision=hf:{tiny_vision}", "--shard-rows", 32]
    assert run("encode", halves[0], store, *arguments)[0] == 0
    folder = feature(store, "vision")
    header = FeatureHeader.from_json((folder / HEADER).read_bytes(), where=HEADER)
    for digits, probe in ((5e-6, True), (0.0, False)):
        shutil.copytree(store, tmp_path / f"half{probe}")
        half = feature(tmp_path / f"half{probe}", "vision")
        shutil.rmtree(half)
        half.mkdir()
        shifted = tuple(value + digits for value in header.card.probe) if probe else None
        begun = header.model_copy(update={"card": header.card.model_copy(update={"probe": shifted})})
        assert begun.fingerprint == header.fingerprint
        (half / HEADER).write_text(begun.to_json())
        code, _, err = run("encode", halves[0], tmp_path / f"half{probe}", *arguments)
        assert code == 0, err
        assert (half / HEADER).read_text() == begun.to_json()
        manifest = json.loads((half / MANIFEST).read_text())
        assert manifest["header"] == json.loads(begun.to_json())
        assert verify_store(tmp_path / f"half{probe}").findings == ()
        assert open_store(tmp_path / f"half{probe}")["vision"].card == begun.card
        for path in (p for p in folder.rglob("*") if p.is_file() and p.name not in (HEADER, MANIFEST)):
            assert (half / path.relative_to(folder)).read_bytes() == path.read_bytes()


def test_a_part_without_a_probe_vouches_for_no_other(run, halves, tmp_path, tiny_vision, other):
    """A store of before, then one of each configuration: the two are compared with each other."""
    one, two = halves
    three = one.with_name("three.csv")
    lines = two.read_text().splitlines()
    two.write_text("\n".join(lines[:51]) + "\n")
    three.write_text("\n".join([lines[0], *lines[51:]]) + "\n")
    for source, name, spec in ((one, "A", tiny_vision), (two, "B", tiny_vision), (three, "C", other)):
        assert run("encode", source, tmp_path / name, "--image-encoder", f"vision=hf:{spec}")[0] == 0
    folder = feature(tmp_path / "A", "vision")
    for name in (HEADER, MANIFEST):
        document = json.loads((folder / name).read_text())
        del (document if name == HEADER else document["header"])["card"]["probe"]
        (folder / name).write_text(json.dumps(document, indent=2) + "\n")
    assert verify_store(tmp_path / "A").findings == ()
    probes = [open_store(tmp_path / name).header("vision").card.probe for name in "AB"]
    joined = open_store(f"{tmp_path}/A+{tmp_path}/B")
    assert probes[0] is None
    assert joined.header("vision").card.probe == joined["vision"].card.probe == probes[1]
    code, _, err = run("info", f"{tmp_path}/A+{tmp_path}/B+{tmp_path}/C")
    assert code == 1
    assert "card.probe" in err
