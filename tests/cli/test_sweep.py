"""`embedstore fit --sweep`: folders, table, JSON, exit codes."""

from __future__ import annotations

import json
import sys

import pytest

from embedstore.losses.clip import ClipLoss
from embedstore.testing.stores import write_random_store
from embedstore_cli import app

GRID = """image = "vision"
text = "words"
split = "train"
val_split = "val"
width = 16
batch_size = 20
epochs = 2

[grid]
lr = [1e-3, 3e-3]
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    store = write_random_store(tmp_path / "store", images=60).path
    grid = tmp_path / "grid.toml"
    grid.write_text(GRID, encoding="utf-8")

    def run(*arguments, code=0):
        command = [
            "embedstore",
            "fit",
            str(store),
            "--sweep",
            str(grid),
            "--device",
            "cpu",
            *map(str, arguments),
        ]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as end:
            app.main()
        assert end.value.code == code
        return capsys.readouterr()

    return run


def test_a_sweep_from_the_command_line(run, tmp_path):
    out = tmp_path / "out"
    shown = run("--out", out)
    assert "pass 1 of 1: 2 heads on one stream of batches" in shown.err
    assert "2 heads in 1 pass, " in shown.out
    assert "lr=0.003" in shown.out
    assert max(map(len, shown.out.replace(str(out), "").splitlines())) <= 80
    assert {p.name for p in out.iterdir()} == {"lr=0.001", "lr=0.003", "sweep.json", "sweep.svg"}
    assert {p.name for p in (out / "lr=0.001").iterdir()} == {
        "fit.json", "fit.svg", "head.json", "head.safetensors", "log.jsonl",
    }  # fmt: skip
    again = json.loads(run("--out", out, "--json").out)
    assert [m["status"] for m in again["members"]] == ["kept", "kept"]
    assert again["members"][0]["recall"].keys() == {"text_to_image", "image_to_text"}


def test_a_failed_member_is_told_and_ends_with_one(run, tmp_path, monkeypatch):
    usual = ClipLoss.forward
    seen = []

    def forward(self, v, u, **rest):
        seen.append(0)
        return usual(self, v, u, **rest) * (float("nan") if len(seen) == 2 else 1)

    monkeypatch.setattr(ClipLoss, "forward", forward)
    shown = run("--out", tmp_path / "out", code=1)
    assert "lr=0.003: " in shown.err
    assert "the loss is not finite" in shown.err
    assert "failed" in shown.out
    assert (tmp_path / "out" / "lr=0.001" / "head.json").exists()


def test_what_cannot_be_is_told_with_code_two(run, tmp_path):
    assert "lr is varied by the sweep" in run("--out", tmp_path / "out", "--lr", "1", code=2).err
