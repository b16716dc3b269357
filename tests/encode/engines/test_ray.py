"""Ray as it is: several actors on a Ray of this machine, one of them killed."""

import os
import shutil
import subprocess
import sys
import tempfile

import pytest

from embedstore.encode import EngineOptions
from embedstore.errors import MissingExtraError


@pytest.fixture
def ray_folder():
    """Ray's sockets need a short path; Ray leaves its logs there."""
    pytest.importorskip("ray")
    folder = tempfile.mkdtemp(prefix="ray")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_actors_of_which_one_is_killed_make_the_same_bytes(small, tmp_path, ray_folder):
    small.run(tmp_path / "one")
    store = tmp_path / "ray"
    command = [sys.executable, "-m", "embedstore_cli"]
    command += small.command(store, "--engine", "ray", "--ray-workers", "2", "--json")
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"RAY_TMPDIR": ray_folder}
    listen, killed = small.killer(store)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        while process.poll() is None and not killed:
            listen(None)
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert killed
    assert '"workers_lost": 1' in out
    assert "units are made again by others; another one takes its place" in " ".join(err.split())
    assert small.tree(store) == small.tree(tmp_path / "one")
    # Ray has ended with the run: none of its processes has this folder among its words any more.
    assert not list(_processes_of(ray_folder))
    with pytest.raises(ProcessLookupError):
        os.kill(small.workers(store)[-1], 0)


def test_without_ray_the_line_that_installs_it(small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'embedstore\[ray\]'"):
        small.run(tmp_path / "store", engine=EngineOptions(engine="ray"))
    assert not (tmp_path / "store").exists()


def _processes_of(folder):
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if folder in line]
