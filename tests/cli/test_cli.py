"""The command line as a user meets it: words, JSON and exit codes."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys

import pytest

from embedstore.store import open_store
from embedstore_cli.commands import bench


@pytest.fixture
def store(run, picture_folder, tiny_vision, tiny_words, tmp_path):
    """A store made by the command, and how."""
    command = ["encode", picture_folder, tmp_path / "store", "--image-encoder", f"vision=hf:{tiny_vision}"]
    command += ["--text-encoder", f"words=hf:{tiny_words}"]
    code, out, err = run(*command)
    assert code == 0, err
    assert "vision: 100 images" in out
    return tmp_path / "store"


def fit(run, store, out, *more):
    command = ["fit", store, "--image", "vision", "--text", "words", "--split", "train", "--out", out]
    return run(*command, "--width", 16, "--epochs", 2, "--batch-size", 20, *more)


def test_the_whole_line(run, store, tmp_path):
    code, out, _ = fit(run, store, tmp_path / "head")
    assert code == 0
    assert "fitted on 80 images" in out
    code, out, _ = run("bench", "retrieval", store, "--head", tmp_path / "head", "--split", "test")
    assert code == 0
    assert "text to image recall@1" in out
    classes = tmp_path / "classes.txt"
    classes.write_text("class0\nclass1\nclass2\nclass3\n")
    code, out, _ = run("bench", "zeroshot", store, "--head", tmp_path / "head", "--classes", classes)
    assert code == 0
    assert "image to class top-1" in out


def test_how_tokens_come_is_an_option_and_changes_no_weight(run, store, tmp_path):
    for name, more in (("a", []), ("b", ["--cache-on-device", "yes"]), ("c", ["--buffer-mb", 0.5])):
        code, out, err = fit(run, store, tmp_path / name, "--device", "cpu", *more)
        assert code == 0, err
        assert ("tokens kept on cpu" in out) == (name == "b")
    weights = [(tmp_path / name / "head.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] == weights[2]
    assert fit(run, store, tmp_path / "d", "--cache-on-device", "maybe")[0] == 2
    code, _, err = fit(run, store, tmp_path / "d", "--buffer-mb", 0)
    assert code == 2
    assert "buffers must hold something" in err


def test_json_of_every_command(run, store, tmp_path, picture_folder, tiny_vision):
    code, out, _ = fit(run, store, tmp_path / "head", "--json")
    assert code == 0
    assert json.loads(out)["images"] == 80
    report = tmp_path / "report.json"
    code, out, _ = run("bench", "retrieval", store, "--head", tmp_path / "head", "--json", "--out", report)
    measured = json.loads(out)
    assert measured["metrics"]["text_to_image"]["recall@1"].keys() == {"value", "low", "high"}
    assert report.read_text() == out
    assert json.loads(run("info", store, "--json")[1])["plan"]["images"] == 100
    assert json.loads(run("verify", store, "--json")[1])["sound"] is True
    again = ["encode", picture_folder, store, "--image-encoder", f"vision=hf:{tiny_vision}", "--json"]
    assert json.loads(run(*again)[1])["features"][0]["fresh_rows"] == 0
    assert json.loads(run(*again, "--dry-run")[1])["missing_bytes"] == 0


def test_figures_of_images_that_were_fitted_on_are_marked(run, store, tmp_path):
    fit(run, store, tmp_path / "head")
    _, _, err = run("bench", "retrieval", store, "--head", tmp_path / "head", "--split", "train")
    assert "has seen" in " ".join(err.split())


def test_a_task_of_another_package_is_a_command(run, store, tmp_path, monkeypatch):
    monkeypatch.setitem(bench.TASKS._table, "mine", "embedstore.bench.retrieval:measure_retrieval")
    monkeypatch.setattr(bench.app, "registered_commands", [*bench.app.registered_commands])
    bench.plug_in(bench.app, "mine")
    fit(run, store, tmp_path / "head")
    code, out, _ = run("bench", "mine", store, "--head", tmp_path / "head", "--json")
    assert code == 0
    assert json.loads(out)["task"] == "retrieval"


def test_an_interrupted_fit_promises_nothing(run, store, tmp_path, monkeypatch):
    def interrupt(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("embedstore.fit.trainer.Run.all_epochs", interrupt)
    code, _, err = fit(run, store, tmp_path / "head")
    assert code == 130
    assert "interrupted" in err
    assert "go on" not in err


def test_a_mistaken_command_leaves_no_store(run, picture_folder, tiny_vision, tmp_path):
    for spec in ("hff:x", "hf:nowhere/at/all"):
        assert run("encode", picture_folder, tmp_path / "new", "--image-encoder", spec)[0] != 0
    twice = ["--image-encoder", f"x=hf:{tiny_vision}", "--image-encoder", f"x=hf:{tiny_vision}"]
    assert run("encode", picture_folder, tmp_path / "new", *twice)[0] == 2
    assert not (tmp_path / "new").exists()


def test_a_dry_run_refuses_what_the_run_would(run, store, picture_folder, tiny_vision):
    command = ["encode", picture_folder, store, "--image-encoder", f"vision=hf:{tiny_vision}"]
    for change in (["--seed", "1"], ["--policy", "float32"]):
        code, _, err = run(*command, *change, "--dry-run")
        assert (code, run(*command, *change)[0]) == (1, 1)
        assert change[1] in err
        assert "chunk" not in err


def test_the_folder_one_stands_in_may_be_the_store(run, picture_folder, tiny_vision, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run("encode", picture_folder, ".", "--image-encoder", f"vision=hf:{tiny_vision}")[0] == 0
    assert (tmp_path / "here.encode.log").is_file()


@pytest.mark.parametrize("place", ["store", "out"])
def test_a_path_below_a_file_is_one_clear_message(run, store, picture_folder, tiny_vision, place):
    below = picture_folder / "captions.csv" / "x"
    if place == "store":
        code, _, err = run("encode", picture_folder, below, "--image-encoder", f"vision=hf:{tiny_vision}")
    else:
        code, _, err = fit(run, store, below)
    assert code == 1
    assert "Not a directory" in " ".join(err.split())
    assert "Traceback" not in err


def test_info_tells_tables_features_and_cards(run, store):
    code, out, _ = run("info", store)
    assert code == 0
    for words in (
        "100 images, 200 texts",
        "splits: test 20, train 80",
        "Dinov2Model",
        "28 × 28 px",
        "complete",
    ):
        assert words in out


def test_verify_finds_a_flipped_bit_and_repairs_it(run, store, picture_folder, tiny_vision):
    shard = next(p for p in store.glob("features/vision/tokens/c/1/*/*") if p.is_file())
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    code, out, err = run("verify", store)
    assert code == 1
    assert "the store is damaged" in out
    assert "vision" in err
    code, out, _ = run("verify", store, "--repair")
    assert code == 0
    assert run("encode", picture_folder, store, "--image-encoder", f"vision=hf:{tiny_vision}")[0] == 0
    assert run("verify", store)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["encode", "nowhere", "store", "--image-encoder", "hf:x"], 1, "no such file or folder"),
        (["encode", "scenes:5", "store"], 2, "no encoder given"),
        (["encode", "scenes:5", "store", "--image-encoder", "hff:x"], 2, "did you mean 'hf'?"),
        (
            ["encode", "scenes:5", "store", "--image-encoder", "hf:x", "--policy", "int3"],
            2,
            "float32, float16",
        ),
        (["encode", "scenes:5", "store", "--image-encoder", "hf:x", "--column", "caption"], 2, "OURS=THEIRS"),
        (["info", "nowhere"], 1, "there is no store here"),
        (["verify", "nowhere"], 1, "there is no store here"),
        (["fit", "nowhere", "--image", "a", "--text", "b", "--out", "h"], 1, "there is no store here"),
        (["bench", "retrieval", "nowhere", "--head", "h"], 1, "there is no store here"),
        (["encode"], 2, "Missing argument"),
        (["encode", "scenes:5", "store", "--no-such-option"], 2, "No such option"),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_one_clear_message_and_the_right_exit_code(run, monkeypatch, tmp_path, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    got, _, err = run(*arguments)
    assert got == code, err
    assert words in " ".join(err.split())
    assert "Traceback" not in err


def test_debug_shows_the_traceback(monkeypatch, tmp_path):
    command = [sys.executable, "-m", "embedstore_cli", "--debug", "info", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "Traceback" in done.stderr
    assert "StoreNotFoundError" in done.stderr


def test_version(run):
    code, out, _ = run("--version")
    assert (code, out.split()[0]) == (0, "embedstore")


@pytest.mark.slow
@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_exits_130_and_says_what_remains(blow, tiny_vision, tmp_path):
    command = [sys.executable, "-m", "embedstore_cli", "encode", "scenes:3000", str(tmp_path / "store")]
    command += ["--image-encoder", f"vision=hf:{tiny_vision}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        units = tmp_path / "store" / "features" / "vision" / "units"
        while not (units.is_dir() and any(units.glob("*.json"))):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.02)
                pytest.fail(f"the encode ended by itself: {process.stderr.read()}")
        process.send_signal(blow)
        _, err = process.communicate()
    assert process.returncode == 130
    assert "run the same command again" in err
    assert "94 units are stored" in err
    assert "Traceback" not in err
    from embedstore.store import open_store

    done, total = open_store(tmp_path / "store").progress("vision")
    assert 0 < done < total


def test_recode_and_fit_from_what_it_made(run, store, tmp_path):
    code, out, _ = run("recode", store, "vision", "--policy", "merge-2+int8", "--as", "small")
    assert code == 0
    assert re.search(r"small: 100 images as merge-2\+int8, .* times less than vision\); 100 rows in", out)
    code, out, _ = run("recode", store, "vision", "--policy", "merge-2+int8", "--as", "small", "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["policy"], found["source"], found["fresh_rows"]) == ("merge-2+int8", "vision", 0)
    assert found["smaller"] > 1
    command = ["fit", store, "--image", "small", "--text", "words", "--split", "train", "--width", 16]
    code, out, err = run(*command, "--epochs", 1, "--batch-size", 20, "--out", tmp_path / "head")
    assert code == 0, err
    code, _, err = run("bench", "retrieval", store, "--head", tmp_path / "head", "--split", "test")
    assert code == 0, err
    assert run("verify", store)[0] == 0


@pytest.mark.parametrize(
    ("policy", "code", "words"),
    [
        ("merge-9999", 2, "merge-K with K up to"),
        ("int7", 2, "unknown storage policy"),
        ("fp8", 1, "--as NAME"),
    ],
)
def test_recode_says_what_is_wrong(run, store, policy, code, words):
    found, _, err = run("recode", store, "vision", "--policy", policy, "--as", "words")
    assert found == code
    assert words in err.replace("\n", " ")


def test_encode_stores_under_policies_that_learn(run, picture_folder, tiny_vision, tmp_path):
    command = ["encode", picture_folder, tmp_path / "s", "--image-encoder", f"v=hf:{tiny_vision}"]
    code, out, _ = run(*command, "--policy", "merge-4+pca-8+int8", "--dry-run")
    assert code == 0
    assert "v: the policy learns from 100 rows, which are encoded once more" in out.replace("\n", " ")
    code, out, _ = run(*command, "--policy", "merge-4+pca-8+int8")
    assert code == 0
    assert "v: merge-4+pca-8+int8 was learnt from 100 rows" in out.replace("\n", " ")
    assert open_store(tmp_path / "s").header("v").policy == "merge-4+pca-8+int8"
    code, _, err = run(*command[:2], tmp_path / "t", *command[3:], "--policy", "pca-64")
    assert code == 2
    assert "pca-D, D to 32" in err.replace("\n", " ")


def test_help_tells_defaults_that_stand_elsewhere(run):
    code, out, _ = run("fit", "--help")
    out = " ".join(word for word in out.split() if word != "│")
    assert (code, "[default: token]" in out, "[default: clip]" in out) == (0, True, True)
    assert "[default: 10]" in run("--help")[1]


def test_nothing_is_written_into_memory_that_ends_with_the_command(run):
    for command in (
        ["encode", "scenes:9", "memory://a/b", "--image-encoder", "hf:x"],
        ["recode", "memory://a/b", "v", "--policy", "int8", "--as", "w"],
        ["import", "x.npy", "memory://a/b", "--as", "v", "--model", "m"],
    ):
        code, _, err = run(*command)
        assert (code, "a store in memory ends with the command" in err) == (2, True), err


def test_the_size_of_the_cache_is_checked_before_anything_runs(run, tmp_path, monkeypatch):
    monkeypatch.setenv("EMBEDSTORE_CACHE_GB", "1")
    for bad in ("-1", "nan"):
        code, _, err = run("--cache-gb", bad, "info", tmp_path)
        assert (code, "bad size of the cache" in err) == (2, True), err


def test_a_recoding_that_takes_more_says_so(run, picture_folder, tiny_vision, tmp_path):
    command = ["encode", picture_folder, tmp_path / "s", "--image-encoder", f"v=hf:{tiny_vision}"]
    run(*command, "--policy", "int8")
    code, out, _ = run("recode", tmp_path / "s", "v", "--policy", "float32", "--as", "w")
    assert code == 0
    assert re.search(r"[1-9]\.\d times more than v\)", out.replace("\n", " "))


def test_verify_says_how_a_lost_calibration_is_learnt_again(run, picture_folder, tiny_vision, tmp_path):
    command = ["encode", picture_folder, tmp_path / "s", "--image-encoder", f"v=hf:{tiny_vision}"]
    run(*command, "--policy", "int8")
    (tmp_path / "s" / "features" / "v" / "calibration.safetensors").unlink()
    code, _, err = run("verify", tmp_path / "s")
    assert code == 1
    assert "run the same embedstore encode command again" in err.replace("\n", " ")
    assert run(*command, "--policy", "int8")[0] == 0
    assert run("verify", tmp_path / "s")[0] == 0
