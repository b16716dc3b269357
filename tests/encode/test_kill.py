"""kill -9 in the middle of a real encode: run again, and every file is the one of an undisturbed run."""

import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ENCODE = """
import sys, time
from pathlib import Path
from embedstore.encode import EncodeOptions, encode_source
import embedstore.encode.engines.work as work

class Stepping(work.FeatureWriter):
    # Each unit waits for one line from the parent, so that a kill hits real work and not an end.
    def write_unit(self, *args, **kwargs):
        sys.stdin.readline()
        record = super().write_unit(*args, **kwargs)
        print("done", self.header.name, args[0], flush=True)
        return record

work.FeatureWriter = Stepping
source, store, vision, words, decode = sys.argv[1:]
if __name__ == "__main__":
    encode_source(source, Path(store), image_encoders=["vision=hf:" + vision],
                  text_encoders=["words=hf:" + words],
                  options=EncodeOptions(batch_size=8, shard_rows=16, decode=decode))
"""


def tree(store):
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


def records(store):
    return sorted(store.glob("features/*/units/*.json"))


@pytest.fixture
def start(picture_folder, tiny_vision, tiny_words):
    def run(store, decode="threads"):
        command = [
            sys.executable,
            "-c",
            ENCODE,
            str(picture_folder),
            str(store),
            str(tiny_vision),
            str(tiny_words),
            decode,
        ]
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    return run


def finish(process):
    """Let a started encode write everything that is left."""
    feeder = threading.Thread(target=_feed, args=(process,))
    feeder.start()
    with process.stdout:
        process.stdout.read()
    assert process.wait() == 0
    feeder.join()


def _feed(process):
    try:
        for _ in range(1000):
            process.stdin.write("\n")
            process.stdin.flush()
        process.stdin.close()
    except (BrokenPipeError, ValueError):
        pass


def step(process):
    """Let exactly one more unit be written and wait until it says so."""
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline().split()


@pytest.mark.slow
def test_killed_again_and_again_the_store_comes_out_byte_identical(start, tmp_path):
    finish(start(tmp_path / "whole"))
    whole = tree(tmp_path / "whole")
    store = tmp_path / "killed"
    # 7 image units and 13 text units: each run is killed after some of them, seen by their records.
    for units, feature in ((2, "vision"), (7, "words"), (5, "words")):
        process = start(store)
        for _ in range(units):
            said = step(process)
        assert said[:2] == ["done", feature]
        written = records(store)
        assert written
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stdin.close()
        process.stdout.close()
        assert set(written) <= set(records(store))
        assert not (store / "features" / feature / "manifest.json").exists()
    finish(start(store))
    assert tree(store) == whole


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs pidfd_open")
def test_processes_that_decode_end_with_the_one_that_is_killed(start, tmp_path):
    process = start(tmp_path / "s", decode="processes")
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline().startswith("done")
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    children = {int(c) for task in tasks for c in (task / "children").read_text().split()}
    assert len(children) >= 2
    waiting = [os.pidfd_open(child) for child in children]
    process.kill()
    process.communicate()
    for handle in waiting:
        assert select.select([handle], [], [], 60)[0], "a process outlived its parent"
        os.close(handle)
