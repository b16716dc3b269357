"""`embedstore doctor`: what it finds, what it measures, and what it calls wrong."""

import json
import sys
from importlib import metadata

import pytest

from embedstore.errors import StoreError
from embedstore.recipes import doctor
from embedstore.recipes.rates import measure_disk, measure_memory


def needs(monkeypatch, *lines, extras=()):
    """Let the installed package need `lines`."""
    monkeypatch.setattr(metadata, "requires", lambda _: list(lines))

    class Message:
        def get_all(self, _name):
            return list(extras)

    monkeypatch.setattr(metadata, "metadata", lambda _: Message())


def test_the_command_says_everything_and_leaves_nothing(run, tmp_path):
    code, out, err = run("doctor", tmp_path, "--json")
    found = json.loads(out)
    assert code == (1 if found["problems"] else 0), err
    assert {"torch", "transformers", "zarr", "pyarrow", "embedstore"} <= found["versions"].keys()
    assert found["faiss"].startswith(("GPU flavour", "CPU flavour"))
    assert found["cores"] >= 1
    assert found["memory"] > 1 << 28
    assert found["memory_rate"] > 0
    disk = found["disk"]
    assert (disk["folder"], disk["links"]) == (str(tmp_path), True)
    assert min(disk["write"], disk["read_warm"], disk["flush"], disk["free"]) > 0
    assert not list(tmp_path.iterdir())


def test_for_a_person(run, tmp_path):
    code, out, _ = run("doctor", tmp_path)
    for words in ("FAISS: ", "torch: built for", "memory: ", f"disk of {tmp_path}", "versions"):
        assert words in out
    assert ("nothing is wrong here" in out) == (code == 0)


def test_missing_and_old_packages_are_problems_with_their_line(monkeypatch):
    needs(monkeypatch, "no-such-package>=2", "numpy>=999", "pyarrow", "torch; sys_platform == 'amiga'")
    problems = []
    versions = doctor._versions(problems)
    assert [p.todo for p in problems] == [
        "pip install 'no-such-package>=2'",
        "pip install 'numpy>=999'",
    ]
    assert versions["no-such-package"] == "missing"
    assert "torch" not in versions
    assert versions["pyarrow"] == metadata.version("pyarrow")


def test_extras_name_the_line_that_installs_them(monkeypatch):
    lines = ["numpy", "no-such-package>=2; extra == 'ray'", "pyarrow; extra == 'gs'", "ruff; extra == 'dev'"]
    needs(monkeypatch, *lines, extras=["ray", "gs", "dev"])
    assert list(doctor._extras()) == [
        doctor.Extra(name="gs", missing=(), install="pip install 'embedstore[gs]'"),
        doctor.Extra(name="ray", missing=("no-such-package",), install="pip install 'embedstore[ray]'"),
    ]


def test_two_flavours_of_faiss_are_a_problem(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda _: "1.0")
    problems = []
    doctor._faiss(problems, gpus=0)
    assert "both installed" in problems[0].problem
    assert problems[0].todo.startswith("pip uninstall")


def test_a_gpu_that_faiss_does_not_see_is_a_problem(monkeypatch):
    import faiss

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    problems = []
    doctor._faiss(problems, gpus=2)
    assert "sees no GPU, torch sees 2" in problems[0].problem


def test_an_idle_gpu_is_a_problem_and_the_exit_code_1(run, monkeypatch, tmp_path):
    monkeypatch.setattr(
        "embedstore.encoders.device.unused_gpu", lambda _: "running on the CPU: a GPU is here"
    )
    code, _, err = run("doctor", tmp_path)
    assert code == 1
    assert "a GPU is here" in err


def test_a_folder_that_is_not_there_is_not_made(tmp_path):
    assert measure_disk(tmp_path / "a" / "b").folder == str(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_place_where_nothing_can_be_written(tmp_path, monkeypatch):
    def refuse(*_arguments, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(StoreError, match="cannot be written"):
        measure_disk(tmp_path)


def test_memory_has_a_rate():
    assert measure_memory() > 1e8
