"""Several processes of this machine fill one store: killed, interrupted, or left without a coordinator."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from embedstore.encode import EngineOptions, Part
from embedstore.encode.engines import messages as say
from embedstore.encode.engines.local import LocalTransport
from embedstore.encode.session import EncodeRequest
from embedstore.errors import SourceError
from embedstore.store import open_store


@pytest.mark.slow
def test_two_workers_of_which_one_is_killed_make_the_same_bytes(small, tmp_path):
    small.run(tmp_path / "one")
    store = tmp_path / "two"
    listen, killed = small.killer(store)
    warned = []
    summary = small.run(
        store,
        engine=EngineOptions(devices="cpu,cpu", threads=1),
        on_progress=listen,
        on_warning=warned.append,
    )
    assert small.tree(store) == small.tree(tmp_path / "one")
    assert (len(killed), summary.workers, summary.workers_lost) == (1, 2, 1)
    assert "signal SIGKILL" in warned[0]
    assert [f.fresh for f in summary.features] == [100, 200]
    # No process is left.
    assert not any(_lives(process) for process in small.workers(store))


@pytest.mark.slow
def test_an_interruption_drops_what_workers_have_and_says_what_remains(small, tmp_path):
    store = tmp_path / "store"
    command = [sys.executable, "-m", "embedstore_cli", *small.command(store, "--devices", "2xcpu")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not any(store.glob("features/vision/units/*.json")):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.02)
                pytest.fail(f"the encode ended by itself: {process.stderr.read()}")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate()
    assert process.returncode == 130
    assert "of 13 units are stored" in err
    assert "Traceback" not in err
    assert not any(_lives(process) for process in small.workers(store))
    done, _ = open_store(store).progress("vision")
    assert done > 0
    assert small.run(store).features[0].fresh == 100 - 8 * min(done, 12) - 4 * (done == 13)


def test_a_worker_without_a_coordinator_ends(tmp_path):
    request = EncodeRequest(source="nowhere", store=str(tmp_path / "store"))
    transport = LocalTransport(request, ["cpu"], threads=1)
    transport.start(0)
    ((_, ready),) = transport.wait()
    assert isinstance(ready, say.Ready)
    transport._pipes[0].close()
    assert transport._processes[0].wait() == 1


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="looks where Linux keeps shared memory")  # noqa: PTH112, S108
def test_a_coordinator_that_is_killed_leaves_no_process_and_no_shared_memory(small, tmp_path):
    store = tmp_path / "store"
    more = ["--devices", "2xcpu", "--decode", "processes", "--workers", "1"]
    command = [sys.executable, "-m", "embedstore_cli", *small.command(store, *more)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not any(store.glob("features/vision/units/*.json")):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.02)
                pytest.fail(f"the encode ended by itself: {process.stderr.read()}")
        shared = {name for worker in small.workers(store) for name in _shared_memory(worker)}
        process.kill()
        # Ends when nobody holds the other end: no worker, none who decodes for it, no tracker.
        process.communicate(timeout=60)
    assert shared
    assert not [name for name in shared if os.path.exists(name)]  # noqa: PTH110 - plain names


def test_what_every_worker_would_refuse_is_the_error_of_the_run(small, tmp_path):
    small.source = str(tmp_path / "nowhere")
    with pytest.raises(SourceError, match="there is no such file or folder"):
        small.run(tmp_path / "store", engine=EngineOptions(devices="2xcpu", threads=1))
    assert not (tmp_path / "store").exists()


def test_parts_fill_one_store(small, tmp_path):
    small.run(tmp_path / "whole")
    store = tmp_path / "parts"
    for k in (3, 1):
        summary = small.run(store, engine=EngineOptions(part=Part.parse(f"{k}/3"), threads=1))
        assert all(f.manifest is None for f in summary.features)
    # Vision has units 0 to 12, so parts 3 and 1 are 4 and 5 of them.
    assert [f.missing_units for f in summary.features] == [4, 8]
    assert summary.to_dict()["features"][0]["nbytes"] is None
    summary = small.run(store, engine=EngineOptions(part=Part.parse("2/3"), threads=1))
    assert [f.missing_units for f in summary.features] == [0, 0]
    assert small.tree(store) == small.tree(tmp_path / "whole")
    # One that is run again has nothing to do.
    again = small.run(store, engine=EngineOptions(part=Part.parse("3/3"), threads=1))
    assert [f.fresh for f in again.features] == [0, 0]


def _shared_memory(process):
    """Files of shared memory that a process has mapped."""
    lines = Path(f"/proc/{process}/maps").read_text(encoding="utf-8").splitlines()
    return {line.split()[-1] for line in lines if "/dev/shm/psm_" in line}  # noqa: S108 - where Linux keeps it


def _lives(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
