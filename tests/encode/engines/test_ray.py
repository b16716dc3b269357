"""Ray as it is: several actors on a Ray of this machine, one of them killed."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile

import pytest

from embedstore.encode import EngineOptions
from embedstore.encode.engines import ray_actors
from embedstore.errors import EngineError, MissingExtraError, UsageError


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
    # Ray keeps a token in the home of its user.
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    environment |= {"RAY_TMPDIR": ray_folder, "HOME": ray_folder}
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


class Cluster:
    """What a cluster says of its machines."""

    def __init__(self, *machines):
        self.machines = machines

    def nodes(self):
        return [{"Alive": True, "Resources": m} for m in self.machines] + [{"Alive": False, "Resources": {}}]


HEAD, CORES, GPUS = {"CPU": 2.0}, {"CPU": 8.0}, {"CPU": 16.0, "GPU": 4.0}


@pytest.mark.parametrize(
    ("machines", "device", "options", "wanted"),
    [
        ([CORES], "auto", {}, (1, 8, 0, 8)),
        ([CORES, CORES], "auto", {}, (2, 8, 0, 8)),
        ([CORES, CORES], "cpu", {"ray_workers": 8}, (8, 2, 0, 2)),
        # No machine has 16 cores: one actor must fit one machine.
        ([CORES, CORES], "auto", {"ray_workers": 1}, (1, 8, 0, 8)),
        ([CORES], "auto", {"ray_workers": 2, "threads": 16}, (2, 8, 0, 16)),
        ([HEAD, GPUS, GPUS], "auto", {}, (8, 4, 1, 4)),
        ([HEAD, GPUS], "cuda", {"ray_workers": 2, "threads": 1}, (2, 4, 1, 1)),
        ([HEAD, GPUS], "cpu", {}, (2, 9, 0, 9)),
    ],
)
def test_actors_fit_the_machines_of_a_cluster(monkeypatch, machines, device, options, wanted):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    room = ray_actors._room(Cluster(*machines), device, EngineOptions(engine="ray", **options))
    assert (room.workers, room.cpus, room.gpus, room.threads) == wanted


@pytest.mark.parametrize(("device", "words"), [("cuda", "this Ray has no GPU"), ("mps", "auto, cpu, cuda")])
def test_devices_that_a_cluster_has_not(device, words):
    with pytest.raises(UsageError, match=words):
        ray_actors._room(Cluster(CORES), device, EngineOptions(engine="ray"))


def test_an_address_where_nobody_listens_is_said_at_once(small, tmp_path):
    pytest.importorskip("ray")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(EngineError, match=r"Ray cannot be reached\n  found: .*refused"):
            small.run(tmp_path / "store", engine=EngineOptions(engine="ray", ray_address=address))


def test_without_ray_the_line_that_installs_it(small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'embedstore\[ray\]'"):
        small.run(tmp_path / "store", engine=EngineOptions(engine="ray"))
    assert not (tmp_path / "store").exists()


def _processes_of(folder):
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if folder in line]
