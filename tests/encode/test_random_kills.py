"""kill -9 at random moments of an encode, each followed by a resume; and parts of it at the same time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
# EMBEDSTORE_KILLS=100 kills a hundred times; as many as a run of all tests has time for otherwise.
KILLS = int(os.environ.get("EMBEDSTORE_KILLS", "4"))


def kill(folder, source, vision, words, *more):
    """Run the killer; what it says of each kill."""
    script = Path(__file__).with_name("encode_killer.py")
    command = [sys.executable, script, folder, source, vision, words, *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    made = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    assert made.returncode == 0, made.stderr
    return [json.loads(line) for line in made.stdout.splitlines()]


@pytest.mark.slow
def test_encodes_killed_at_random_are_resumed_to_the_same_bytes(
    picture_folder, tiny_vision, tiny_words, tmp_path
):
    *kills, parts = kill(tmp_path, picture_folder, tiny_vision, tiny_words, KILLS, 0)
    # Those that came before the first unit was stored or after the last are resumed too, but do not count.
    assert sum(k["hit"] for k in kills) == KILLS
    assert all(k["killed"] for k in kills if k["hit"])
    assert all(k["sound"] and k["same"] for k in kills)
    if KILLS >= 50:
        assert {k["way"] for k in kills if k["hit"]} == {"moment", "write", "parent"}
    # Three processes that knew nothing of each other.
    assert parts == {"parts": [0, 0, 0], "same": True}


@pytest.mark.slow
@pytest.mark.skipif(KILLS < 100, reason="EMBEDSTORE_KILLS=100 runs it: some minutes")
def test_encodes_by_workers_of_which_one_is_killed(picture_folder, tiny_vision, tiny_words, tmp_path):
    *kills, _ = kill(tmp_path, picture_folder, tiny_vision, tiny_words, 6, 1, "cpu,cpu")
    assert all(k["sound"] and k["same"] for k in kills)
    # An encode goes on without a worker that is killed, and not without its coordinator.
    assert {k["way"]: k["code"] for k in kills if k["killed"]} == {"worker": 0, "coordinator": -9}
