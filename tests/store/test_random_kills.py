"""kill -9 at two hundred random points of writing: the store stays sound, and comes out byte-identical."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

KILLS = 200
UNITS = 9


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_writers_killed_at_random_leave_what_the_next_one_completes(tmp_path):
    run = [sys.executable, str(Path(__file__).with_name("killer.py")), str(tmp_path), str(KILLS), "0"]
    made = subprocess.run(run, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    lines = [json.loads(line) for line in made.stdout.splitlines()]
    kills = [line for line in lines if "kill" in line]
    stores = [line for line in lines if "store" in line]
    assert len(kills) >= KILLS
    # Every store that was killed, several times as a rule, ended as the one that nobody disturbed.
    assert len(stores) >= 20
    assert all(store["same"] for store in stores)
    assert {(k["verb"], k["way"]) for k in kills} == {
        (verb, way) for verb in ("write", "compact") for way in ("effect", "write", "parent")
    }
    # Every kill hit work: the writer died by it, before its store was complete. Most of them after units were
    # done, many after units that this very writer had done; some in the planning.
    assert all(k["before"] <= k["records"] <= UNITS for k in kills)
    counted = Counter(
        "planning" if not k["records"] else "own units" if k["records"] > k["before"] else "units"
        for k in kills
    )
    assert counted["own units"] >= KILLS // 3
    assert counted["own units"] + counted["units"] >= KILLS // 2
    assert counted["planning"] >= 5
