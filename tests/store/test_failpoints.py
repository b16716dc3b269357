from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from embedstore.store import verify_store
from embedstore.store.failpoints import listening


class Killed(BaseException):
    """Ends the work like a kill: no handler of `Exception` sees it."""


class StopAt:
    def __init__(self, at: int) -> None:
        self.at, self.passed = at, []

    def __call__(self, name: str) -> None:
        self.passed.append(name)
        if len(self.passed) - 1 == self.at:
            raise Killed(name)


def _undisturbed(kit, folder: Path):
    seen = StopAt(-1)
    with listening(seen):
        kit.run_whole(folder)
    return seen.passed, kit.tree(folder)


def test_every_kind_of_effect_is_passed_before_and_after(kit, tmp_path):
    names, _ = _undisturbed(kit, tmp_path / "store")
    steps = {tuple(name.split(" ")[:2]) for name in names}
    kinds = ("write", "flush", "rename", "link", "unlink", "flush-folder", "remove")
    assert steps == {(when, kind) for when in ("before", "after") for kind in kinds}
    for file in ("plan.json", "header.json", "00000000.json", "units.parquet", "manifest.json", "tokens/c/0"):
        assert any(file in name for name in names), file


@pytest.mark.slow
def test_a_kill_at_every_point_and_a_second_run_give_the_same_bytes(kit, tmp_path):
    names, wanted = _undisturbed(kit, tmp_path / "reference" / "store")
    for at, name in enumerate(names):
        folder = tmp_path / f"killed-{at}" / "store"
        stop = StopAt(at)
        with pytest.raises(Killed), listening(stop):
            kit.run_whole(folder)
        assert [n.split(" ")[:2] for n in stop.passed] == [n.split(" ")[:2] for n in names[: at + 1]]
        kit.run_whole(folder)
        assert kit.tree(folder) == wanted, f"killed {name}"


def test_two_kills_in_one_store_heal_too(kit, tmp_path):
    names, wanted = _undisturbed(kit, tmp_path / "reference" / "store")
    for at in range(0, len(names), 11):
        folder = tmp_path / f"killed-{at}" / "store"
        for second in (at, at // 2):
            try:
                with listening(StopAt(second)):
                    kit.run_whole(folder)
            except Killed:
                continue
        kit.run_whole(folder)
        assert kit.tree(folder) == wanted, names[at]


SCRIPT = """
import importlib.util, os, sys
from pathlib import Path
from embedstore.store.failpoints import listening
spec = importlib.util.spec_from_file_location("kit", sys.argv[1])
kit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kit)
seen = 0
def stop(name):
    global seen
    seen += name.startswith(sys.argv[3])
    if seen == int(sys.argv[4]):
        os._exit(137)
with listening(stop):
    kit.run_whole(Path(sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("point", "times"),
    [
        ("before rename", 3),
        ("after write", 9),
        ("before link vision/units/00000001.json", 1),
        ("after link vision/units/00000001.json", 1),
        ("before link features/vision/manifest.json", 1),
    ],
)
def test_a_process_that_dies_is_resumed_to_the_same_bytes(kit, tmp_path, point, times):
    _, wanted = _undisturbed(kit, tmp_path / "reference" / "store")
    folder = tmp_path / "killed"
    here = Path(__file__).with_name("conftest.py")
    run = [sys.executable, "-c", SCRIPT, str(here), str(folder), point, str(times)]
    died = subprocess.run(run, env=os.environ, capture_output=True, text=True, check=False)
    assert died.returncode == 137, died.stderr
    assert kit.tree(folder) != wanted
    kit.run_whole(folder)
    assert kit.tree(folder) == wanted
    assert verify_store(folder).findings == ()


def _at_once(folder: Path, stops: list[tuple[str, int]]) -> list[int]:
    """Exit codes of processes that write the same store at the same time, each with its stop."""
    here = Path(__file__).with_name("conftest.py")
    runs = [
        [sys.executable, "-c", SCRIPT, str(here), str(folder), point, str(times)] for point, times in stops
    ]
    started = [subprocess.Popen(run, stderr=subprocess.PIPE, text=True) for run in runs]
    codes = []
    for process in started:
        _, said = process.communicate()
        assert process.returncode in (0, 137), said
        codes.append(process.returncode)
    return codes


def test_processes_writing_the_same_store_at_once_give_the_same_bytes(kit, tmp_path):
    _, wanted = _undisturbed(kit, tmp_path / "reference" / "store")
    assert _at_once(tmp_path / "shared", [("never", 1)] * 3) == [0, 0, 0]
    assert kit.tree(tmp_path / "shared") == wanted


def test_writers_that_die_beside_others_are_healed_by_the_next(kit, tmp_path):
    _, wanted = _undisturbed(kit, tmp_path / "reference" / "store")
    folder = tmp_path / "shared"
    assert _at_once(folder, [("before", 40)]) == [137]
    _at_once(folder, [("after", 30), ("before", 60), ("never", 1)])
    kit.run_whole(folder)
    assert kit.tree(folder) == wanted
