"""`embedstore import` and `embedstore export` as a user meets them."""

import json
import signal
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from embedstore_cli import app


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run a command in this process; gives exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["embedstore", *map(str, arguments)])
        handler = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as end:
            app.main()
        signal.signal(signal.SIGTERM, handler)
        out = capsys.readouterr()
        return end.value.code, out.out, out.err

    return call


def test_in_and_out(run, tmp_path, clip_folder):
    images, _ = clip_folder(tmp_path / "clip")
    model = ["--model", "openai/clip-vit-base-patch32"]
    code, out, err = run("import", "clip-retrieval:clip", "a.store", "--as", "b32", *model)
    assert code == 0, err
    assert "b32: 70 images (pooled)" in out
    assert "new store" in out
    assert "norms of the rows" in out
    code, out, _ = run(
        "import", "clip", "a.store", "--as", "b32-text", "--modality", "text", *model, "--json"
    )
    assert (code, json.loads(out)["new_store"], json.loads(out)["arrays"]) == (0, False, ["pooled", "status"])
    code, out, err = run("export", "a.store", "--feature", "b32,b32-text", "--to", "parquet:out.parquet")
    assert code == 0, err
    assert "out.parquet: 70 rows of b32 12, b32-text 12" in out
    np.testing.assert_array_equal(
        np.array(pq.read_table("out.parquet")["b32"].to_pylist(), np.float16), images
    )
    code, out, _ = run("export", "a.store", "--feature", "b32", "--to", "out.npy", "--json")
    assert json.loads(out)["columns"] == {"b32": [12]}
    assert run("verify", "a.store")[0] == 0
    code, out, _ = run("info", "a.store")
    assert "openai/clip-vit-base-patch32" in out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["import", "clip", "a.store", "--as", "x"], 2, "--model"),
        (["import", "clip", "a.store", "--model", "m"], 2, "--as"),
        (["import", "nowhere.npy", "a.store", "--as", "x", "--model", "m"], 1, "there is no such file"),
        (["import", "a.pkl", "a.store", "--as", "x", "--model", "m"], 2, "cannot tell the format"),
        (["import", "clip", "a.store", "--as", "x", "--model", "m", "--column", "id"], 2, "OURS=THEIRS"),
        (["export", "nowhere", "--feature", "x", "--to", "a.npy"], 1, "there is no store here"),
        (["export", "nowhere", "--to", "a.npy"], 2, "--feature"),
    ],
)
def test_one_clear_message(run, arguments, code, words):
    got, _, err = run(*arguments)
    assert got == code, err
    assert words in " ".join(err.split())
    assert "Traceback" not in err
