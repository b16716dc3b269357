"""Several processes against one, in float64: losses of every step, weights, files, words."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from embedstore.documents import FitConfig, load_document
from embedstore.errors import UsageError
from embedstore.fit import fit_config, fit_head, torchrun_world
from embedstore.fit import world as world_file
from embedstore.testing.stores import write_random_store

WORKER = Path(__file__).with_name("world_worker.py")
_spec = importlib.util.spec_from_file_location("world_worker", WORKER)
worker = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(worker)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_random_store(tmp_path_factory.mktemp("world") / "store", images=61, captions=3)


@pytest.fixture(scope="module")
def alone(store, tmp_path_factory):
    """What one process has, without any of what several need: `micro_batch` draws dropout by row."""
    out, found = tmp_path_factory.mktemp("alone"), {}
    for name in worker.CASES:
        instead = {} if name == "plain" else {"micro_batch": worker.BATCH}
        found[name] = worker.fitted(store, name, out / name, instead=instead)
    return found


def meeting(size, rank=0):
    """Where processes meet, as torchrun prepares it; and what it tells each in its environment."""
    host = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    return host, {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(host.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }


def start(size, *arguments):
    """So many processes; the place where they meet stays while they run."""
    host, environment = meeting(size)
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), *map(str, arguments)],
            env=os.environ | environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    return host, processes


def ended(processes):
    """Of each its exit code, output and errors."""
    said = [process.communicate(timeout=500) for process in processes]
    return [(process.returncode, *words) for process, words in zip(processes, said, strict=True)]


@pytest.fixture(scope="module")
def of_two(store, tmp_path_factory):
    """Two processes make every case; then one of them is killed."""
    out = tmp_path_factory.mktemp("of-two")
    _host, processes = start(2, "cases", store.path, out)
    return out, ended(processes)


@pytest.mark.parametrize("name", worker.CASES)
def test_two_processes_fit_what_one_fits(alone, of_two, name):
    out, _ = of_two
    losses, result = alone[name]
    told = [json.loads((out / f"told-{rank}.json").read_text())[name] for rank in range(2)]
    assert len(losses) == (21 if worker.options_of(name)["epochs"] == worker.LONG else 6)
    np.testing.assert_allclose(told[0]["losses"], losses, rtol=1e-12)
    assert told[0]["loss"] == pytest.approx(result.loss, rel=1e-12)
    assert (told[0]["kept"], told[0]["recall"]) == (result.kept_epoch, result.recall)
    assert told[0]["images"] == result.images
    # To the bit the same on both.
    assert told[0] == told[1]
    same_weights(out / name, result.out)


def same_weights(found, wanted):
    found, wanted = (load_file(folder / "head.safetensors") for folder in (found, wanted))
    assert found.keys() == wanted.keys()
    for key, weight in wanted.items():
        assert weight.dtype == torch.float64
        torch.testing.assert_close(found[key], weight, rtol=1e-10, atol=1e-10)


def test_each_process_keeps_a_part_of_the_tokens_on_its_device(store, of_two, tmp_path):
    held = [int((of_two[0] / f"cached-{rank}").read_text()) for rank in range(2)]
    whole = worker.fitted(store, "plain", tmp_path / "h", cache_on_device="yes")[1].cached_bytes
    assert max(held) < 0.95 * whole
    assert sum(held) >= whole


def test_a_process_that_is_killed_ends_the_others_with_a_message(of_two):
    (code, _, errors), (killed, _, _) = of_two[1]
    assert (code, killed) == (1, 9)
    assert "or have lost each other" in errors
    assert "process 0 of 2" in errors


def test_the_command_of_three_processes_logs_and_writes_once(store, alone, tmp_path):
    _host, processes = start(3, "command", store.path, tmp_path, "dropout")
    told = ended(processes)
    assert [code for code, _, _ in told] == [0, 0, 0], told
    found, wanted = json.loads(told[0][1]), alone["dropout"][1]
    assert [words for _, words, _ in told[1:]] == ["", ""]
    assert (found["processes"], found["images"], found["kept_epoch"]) == (3, 49, wanted.kept_epoch)
    assert found["loss"] == pytest.approx(wanted.loss, rel=1e-12)
    same_weights(tmp_path / "dropout", wanted.out)
    first, *_ = (json.loads(line) for line in (tmp_path / "dropout/log.jsonl").read_text().splitlines())
    assert first["processes"] == 3
    assert load_document(FitConfig, tmp_path / "dropout/fit.json").batch_size == worker.BATCH


def test_one_process_under_torchrun_is_one_process(store, alone, tmp_path, monkeypatch):
    _host, environment = meeting(1)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with torchrun_world("cpu") as world:
        assert (world.rank, world.size, world.speaks) == (0, 1, True)
        losses, _ = worker.fitted(store, "dropout", tmp_path / "h", world=world)
    assert not torch.distributed.is_initialized()
    np.testing.assert_allclose(losses, alone["dropout"][0], rtol=1e-12)


def test_an_error_is_told_by_one(monkeypatch, run, tmp_path):
    _host, environment = meeting(1)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def failed():
        try:
            return run("fit", tmp_path / "none", "--image", "a", "--text", "b", "--out", tmp_path / "h")
        finally:
            torch.distributed.destroy_process_group()

    code, _, errors = failed()
    assert (code, errors.count("error:")) == (1, 1)
    assert "there is no store" in errors
    # The same error on the next process.
    code, said, errors = failed()
    assert (code, said, errors.strip()) == (1, "", "")


def test_without_torchrun_nothing_is_started(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(world_file.dist, "init_process_group", None)
    with torchrun_world("cpu") as world:
        assert world is None


@pytest.mark.parametrize(
    ("device", "local", "words"),
    [("cuda", "2", "process 2 on this machine, GPUs 2"), ("cuda:1", "0", "GPU of its own number")],
)
def test_each_process_has_its_own_gpu(monkeypatch, device, local, words):
    monkeypatch.setattr(world_file, "pick_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in meeting(4)[1].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_RANK", local)
    with pytest.raises(UsageError, match=words), torchrun_world(device):
        pass


def test_processes_with_other_commands_are_refused(store, tmp_path, monkeypatch):
    class Others(world_file.World):
        def refuse_other(self, what):
            assert "vision" in what
            assert store.fingerprint in what
            raise UsageError("the processes were told to fit different heads")

    config = fit_config(image="vision", text="words", width=8)
    others = Others(rank=0, size=2, device=torch.device("cpu"))
    with pytest.raises(UsageError, match="different heads"):
        fit_head(store, config, tmp_path / "h", world=others)
    assert not (tmp_path / "h").exists()
