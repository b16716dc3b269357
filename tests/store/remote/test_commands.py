"""The whole line by the public commands, with the store on a real S3-compatible server on loopback."""

import json
import sys

import numpy as np
import pytest

from embedstore.store import open_store
from embedstore.testing.stores import write_random_store


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command in this process; gives exit code, standard output and standard error."""
    import signal

    from embedstore_cli import app

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["embedstore", *map(str, arguments)])
        handler = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as end:
            app.main()
        signal.signal(signal.SIGTERM, handler)
        out = capsys.readouterr()
        return end.value.code, out.out, " ".join(out.err.split())

    return call


def test_encode_fit_bench_recode_verify_and_append(
    run, s3, tools, picture_folder, tiny_vision, tiny_words, tmp_path
):
    heads, reports = {}, {}
    for place, name in ((s3.url, "far"), (tmp_path / "near.store", "near")):
        encode = ["encode", picture_folder, place, "--image-encoder", f"vision=hf:{tiny_vision}"]
        encode += ["--text-encoder", f"words=hf:{tiny_words}", "--limit", 40, "--shard-rows", 32]
        code, out, err = run(*encode)
        assert code == 0, err
        assert "vision: 40 images" in out
        fit = ["fit", place, "--image", "vision", "--text", "words", "--split", "train", "--width", 16]
        code, _, err = run(*fit, "--epochs", 2, "--batch-size", 16, "--out", tmp_path / name)
        assert code == 0, err
        heads[name] = (tmp_path / name / "head.safetensors").read_bytes()
        code, out, err = run(
            "bench", "retrieval", place, "--head", tmp_path / name, "--split", "test", "--json"
        )
        assert code == 0, err
        reports[name] = json.loads(out)["metrics"]
        code, _, err = run("recode", place, "vision", "--policy", "int8", "--as", "small", "--shard-rows", 32)
        assert code == 0, err
    assert heads["far"] == heads["near"]
    assert reports["far"] == reports["near"]
    assert s3.objects() == tools.local_files(tmp_path / "near.store")
    code, out, err = run(*encode[:2], s3.url, *encode[3:])
    assert (code, out.count("nothing was missing")) == (0, 2), err
    code, out, err = run("verify", s3.url)
    assert code == 0, err
    assert "the store is sound" in out
    code, out, _ = run("info", f"{s3.url}", "--json")
    assert [f["complete"] for f in json.loads(out)["features"]] == [True] * 3
    code, out, err = run(*encode[:2], s3.url, *encode[3:], "--seed", 1)
    assert code == 1
    assert "the plan differs from the stored one" in err
    code, out, err = run(*encode[:2], f"{s3.url}2", *encode[3:], "--dry-run", "--json")
    assert (code, json.loads(out)["free_bytes"]) == (0, None), err
    # Nothing is there of a store that was only looked at.
    assert not s3.system.exists(f"{s3.base}2")


def test_compact_export_and_import(run, s3, tmp_path):
    local = write_random_store(tmp_path / "near.store", images=30, captions=1)
    s3.copy(tmp_path / "near.store")
    code, _, err = run("compact", s3.url, "--to", tmp_path / "new.store")
    assert code == 0, err
    made = open_store(tmp_path / "new.store")
    assert np.array_equal(made["vision"].read("tokens", 0, 30), local["vision"].read("tokens", 0, 30))
    code, _, err = run("compact", s3.url, "--to", f"{s3.url}2")
    assert (code, "compact --to works on a folder of this machine" in err) == (2, True)
    code, _, err = run("export", s3.url, "--feature", "vision", "--to", f"parquet:{tmp_path / 'out.parquet'}")
    assert code == 0, err
    imported = ["import", f"parquet:{tmp_path / 'out.parquet'}", s3.url, "--as", "again", "--model", "random"]
    code, _, err = run(*imported, "--column", "embedding=vision")
    assert code == 0, err
    again = open_store(s3.url)["again"].read("pooled", 0, 30)
    assert np.array_equal(again, local["vision"].read("pooled", 0, 30))


def test_messages(run, s3, tmp_path):
    code, _, err = run("info", f"{s3.url}")
    assert (code, f"error: {s3.url}: there is no store here" in err) == (1, True)
    code, _, err = run("info", "ftp://a/b")
    assert (code, "allowed: s3://, gs://, http://, https://, memory://" in err) == (2, True)
    code, _, err = run("encode", "scenes:9", "http://127.0.0.1:9/x", "--image-encoder", "hf:x")
    assert (code, "encode writes, and http is read-only" in err) == (2, True)
    code, _, err = run("recode", "http://127.0.0.1:9/x", "a", "--policy", "int8", "--as", "b")
    assert (code, "recode writes, and http is read-only" in err) == (2, True)
    write_random_store(tmp_path / "near.store", images=5)
    code, _, err = run("encode", "scenes:9", f"{tmp_path}/near.store+{s3.url}", "--image-encoder", "hf:x")
    assert (code, "encode works on one store" in err) == (2, True)
    code, _, err = run(
        "--cache-gb",
        "0",
        "fit",
        s3.copy(tmp_path / "near.store"),
        "--out",
        tmp_path / "h",
        "--image",
        "vision",
        "--text",
        "words",
    )
    assert (code, "bad size of the cache" in err) == (2, True)
