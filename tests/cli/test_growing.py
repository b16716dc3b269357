"""Growing and shrinking by the command line: `--append`, A+B where a store is read, `compact`, `verify`."""

import json
import os
import shutil

import numpy as np
import pytest

from embedstore.store import create_subset, open_store
from embedstore.testing.stores import write_random_store


@pytest.fixture
def parts(tmp_path):
    """Two stores of the same encoders."""
    write_random_store(tmp_path / "a", images=60, captions=2, seed=1, ids="a", card_seed=7)
    write_random_store(tmp_path / "b", images=40, captions=1, seed=2, ids="b", card_seed=7)
    return f"{tmp_path}/a+{tmp_path}/b"


def test_fit_bench_and_info_read_several_stores_as_one(run, parts, tmp_path):
    code, out, _ = run("info", parts)
    assert code == 0
    assert "100 images, 160 texts" in out
    assert f"{tmp_path}/b" in out
    assert json.loads(run("info", parts, "--json")[1])["parts"] == parts.split("+")
    fit = ["fit", parts, "--image", "vision", "--text", "words", "--split", "train", "--out", tmp_path / "h"]
    code, out, err = run(*fit, "--width", 8, "--epochs", 2, "--batch-size", 16)
    assert code == 0, err
    assert "fitted on 80 images" in out
    bench = ["bench", "retrieval", parts, "--head", tmp_path / "h", "--json"]
    whole = json.loads(run(*bench, "--split", "test")[1])
    assert whole["images"] == 10
    assert whole["notes"] == []
    classes = tmp_path / "classes.txt"
    classes.write_text("circle\nsquare\n")
    # Rows of a part are known to have been fitted on, also through a store that was compacted from it.
    for store in (parts.split("+")[1], parts):
        notes = json.loads(run("bench", "retrieval", store, *bench[3:], "--split", "train")[1])["notes"]
        assert "holds images that it has seen" in notes[0]
    assert run("compact", parts.split("+")[0], "--to", tmp_path / "c")[0] == 0
    notes = json.loads(run("bench", "retrieval", tmp_path / "c", *bench[3:], "--split", "train")[1])["notes"]
    assert "holds images that it has seen" in notes[0]


def test_a_joined_fit_equals_the_fit_on_the_merged_store(run, parts, tmp_path):
    assert run("compact", parts, "--to", tmp_path / "all")[0] == 0
    for store, head in ((parts, "h1"), (tmp_path / "all", "h2")):
        fit = ["fit", store, "--image", "vision", "--text", "words", "--out", tmp_path / head, "--width", 8]
        code, _, err = run(*fit, "--epochs", 2, "--batch-size", 16)
        assert code == 0, err
    first, second = ((tmp_path / h / "head.safetensors").read_bytes() for h in ("h1", "h2"))
    assert first == second


def test_encode_append_and_its_refusals(run, tmp_path, picture_folder, tiny_vision):
    first, second = tmp_path / "first", tmp_path / "second"
    for k in range(100):
        place = (first if k < 60 else second) / f"{k:03d}.png"
        place.parent.mkdir(exist_ok=True)
        shutil.copy(picture_folder / f"class{k // 25}" / f"{k:03d}.png", place)
    assert run("encode", first, tmp_path / "A", "--image-encoder", f"vision=hf:{tiny_vision}")[0] == 0
    code, out, err = run("encode", second, tmp_path / "B", "--append", tmp_path / "A")
    assert code == 0, err
    assert f"read both as one: {tmp_path}/A+{tmp_path}/B" in out
    assert open_store(f"{tmp_path}/A+{tmp_path}/B")["vision"].rows == 100
    code, _, err = run("encode", first, tmp_path / "C", "--append", tmp_path / "A")
    assert code == 1
    assert "60 of 60 ids of the table 'images' are in the store already" in err
    code, _, err = run("encode", second, f"{tmp_path}/A+{tmp_path}/B", "--image-encoder", "hf:x")
    assert code == 2
    assert "encode works on one store" in err


def test_compact_from_a_file_of_ids(run, parts, tmp_path):
    (tmp_path / "ids.txt").write_text("a000000\nb000003\n")
    code, out, err = run("compact", parts, "--drop", tmp_path / "ids.txt", "--to", tmp_path / "new")
    assert code == 0, err
    assert "98 images, 157 texts" in out
    assert "left out 2 images and 3 texts" in out
    assert run("verify", tmp_path / "new")[0] == 0
    again = run("compact", parts, "--drop", tmp_path / "ids.txt", "--to", tmp_path / "new", "--json")
    assert json.loads(again[1])["dropped_images"] == 2
    (tmp_path / "ids.txt").write_text("nobody\n")
    code, _, err = run("compact", parts, "--drop", tmp_path / "ids.txt", "--to", tmp_path / "other")
    assert code == 2
    assert "'nobody'" in err
    assert not os.path.lexists(tmp_path / "other")


def test_verify_samples_and_takes_several_stores(run, parts, tmp_path):
    code, out, _ = run("verify", parts, "--sample", "20%", "--seed", 3)
    assert code == 0
    assert "sampled 20 % of the chunks, seed 3" in out
    assert "the rest was not read" in out
    assert json.loads(run("verify", parts, "--json", "--workers", 2)[1])["chunks_tested"] > 8
    code, out, _ = run("verify", parts)
    assert (code, "the store is sound" in out, "read" in out) == (0, True, True)
    for options, said in (
        (["--repair"], "verify --repair works on one store"),
        (["--sample", "0"], "bad share"),
        (["--sample", "x"], "such as 1%"),
    ):
        code, _, err = run("verify", parts, *options)
        assert code == 2
        assert said in " ".join(err.split())
    shard = tmp_path / "b/features/vision/pooled/c/0/0"
    data = np.fromfile(shard, np.uint8)
    data[3] ^= 1
    data.tofile(shard)
    code, out, err = run("verify", parts)
    assert code == 1
    assert f"{tmp_path}/b/features/vision/pooled" in err


def test_a_subset_is_listed_checked_and_dropped(run, parts, tmp_path):
    create_subset(parts, "gone", {"row": [3, 70]}, verb="leaks", settings={"above": 0.9})
    code, out, _ = run("info", parts)
    assert code == 0
    assert "gone: 2 images by leaks, above 0.9, made of 2 stores as one" in out
    assert json.loads(run("info", parts, "--json")[1])["subsets"][0]["kept"] == 2
    assert json.loads(run("verify", parts, "--json")[1])["subsets"] == 1
    code, out, err = run("compact", parts, "--drop", "gone", "--to", tmp_path / "new")
    assert code == 0, err
    assert "left out 2 images and 3 texts" in out
    ids = open_store(tmp_path / "new").images(["id"])["id"].to_pylist()
    assert len(ids) == 98
    assert {"a000003", "b000010"}.isdisjoint(ids)
    code, _, err = run("compact", parts, "--drop", "goon", "--to", tmp_path / "other")
    assert code == 2
    assert "did you mean 'gone'" in err
    (tmp_path / "a" / "subsets" / "gone" / "rows.parquet").write_bytes(b"")
    code, out, err = run("verify", tmp_path / "a")
    assert code == 1
    assert "subsets/gone: the file is not the one that the subset's card tells of" in err
