"""Kill fits at drawn moments, and let each go on; run as a process of its own.

`python fit_killer.py FOLDER STORE KILLS SEED` prints one JSON line a fit. It loads every library once and
forks: each fit is a child that does the whole of it. A moment is drawn out of all that an undisturbed run
passes: every step, and every effect on the files of its folder. The child dies by SIGKILL at that moment,
or in the middle of a write. Every fit is killed twice, the second time while it goes on from the first, and
then finished.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch._dynamo

from embedstore.fit import fit_config, fit_head
from embedstore.heads import dalip, dinotxt, token
from embedstore.losses import clip, sigmoid
from embedstore.store.failpoints import listening

if TYPE_CHECKING:
    from collections.abc import Callable

# What a child would import otherwise, each time again; the optimisers of torch load its compiler.
LOADED = (pd, torch._dynamo, dalip, dinotxt, token, clip, sigmoid)
CONFIGS: dict[str, dict[str, Any]] = {
    "averaged": {"dropout": 0.2, "ema": 0.9, "val_split": "val", "patience": 2, "mask_duplicates": True},
    "cached": {
        "head": "dalip", "options": {"heads": 2, "reduced": 4}, "dropout": 0.2,
        "micro_batch": 4, "optimiser": "lion", "lr": 3e-4,
    },
    "several": {"captions": 2, "positives": "any", "loss": "clip", "clip_norm": 1.0, "dropout": 0.2},
    "blocks": {"head": "dinotxt", "dropout": 0.2, "loss": "sigmoid", "val_fraction": 0.1},
    "normed": {"head": "dalip", "options": {"heads": 2, "reduced": 4}, "dropout": 0.2, "ema": 0.5},
}  # fmt: skip
TIMES = {"seconds", "samples_per_second", "loading_seconds"}
"""Fields of a log that differ from run to run."""
SMALL = {"image": "vision", "text": "words", "split": "train", "width": 8, "epochs": 3, "batch_size": 10}


def fit(store: str, name: str, out: Path, tell: Callable[[], None]) -> None:
    """The whole fit, or what is left of it; `tell` at every moment."""
    config = fit_config(**{**SMALL, **CONFIGS[name]})
    with listening(lambda _: tell()):
        fit_head(
            store,
            config,
            out,
            device="cpu",
            checkpoint_steps=2,
            cache_on_device="yes" if name == "several" else "no",
            on_progress=lambda _: tell(),
        )


def forked(work: Callable[[], object]) -> int:
    """Do some work in a child; its exit code, negative for the signal that killed it."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        work()
        code = 0
    finally:
        # A child must never run on into what its parent does.
        if code:
            traceback.print_exc()
        os._exit(code)


def die() -> None:
    """End this process as a power switch would."""
    os.kill(os.getpid(), signal.SIGKILL)


def at_moment(store: str, name: str, out: Path, at: int) -> None:
    """Fit until the moment `at`."""
    left = [at]

    def step() -> None:
        left[0] -= 1
        if left[0] < 0:
            die()

    fit(store, name, out, step)


def in_a_write(store: str, name: str, out: Path, at: int) -> None:
    """Fit until half of the vector write `at` is written."""
    left, writev = [at], os.writev

    def torn(handle: int, pieces: list[memoryview]) -> int:
        left[0] -= 1
        if left[0] < 0:
            whole = b"".join(pieces)
            os.write(handle, whole[: len(whole) // 2])
            die()
        return writev(handle, pieces)

    os.writev = torn
    fit(store, name, out, lambda: None)


def counted(store: str, name: str, out: Path) -> tuple[int, int]:
    """Moments of an undisturbed run, and its vector writes."""
    found = out.with_suffix(".json")

    def work() -> None:
        moments, writes, writev = [0], [0], os.writev

        def seen(handle: int, pieces: list[memoryview]) -> int:
            writes[0] += 1
            return writev(handle, pieces)

        os.writev = seen
        fit(store, name, out, lambda: moments.__setitem__(0, moments[0] + 1))
        found.write_text(json.dumps([moments[0], writes[0]]))

    if forked(work):
        sys.exit("an undisturbed run failed")
    most, written = json.loads(found.read_text())
    return most, written


def left(out: Path) -> dict[str, Any]:
    """Every file of a folder: bytes by their hash, the log by its lines without times and resumptions."""
    found: dict[str, Any] = {}
    for path in sorted(out.iterdir()):
        # The chart has its folder's name for a title.
        content = path.read_bytes().replace(out.name.encode(), b"")
        found[path.name] = hashlib.sha256(content).hexdigest()
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    found["log.jsonl"] = [
        {k: v for k, v in line.items() if k not in TIMES} for line in lines if line["kind"] != "resume"
    ]
    return found


def main() -> None:
    """Kill each configuration's fit twice, so many times over."""
    root, store, kills, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    random = np.random.default_rng(seed)
    os.fsync = lambda _handle: None  # kill -9 takes nothing from the page cache
    for name in CONFIGS:
        whole = root / f"{name}-whole"
        most, written = counted(store, name, whole)
        reference = left(whole)
        for number in range(kills):
            out, codes, ways = root / f"{name}-{number}", [], []
            for _ in range(2):
                ways.append(("moment", "write")[int(random.integers(2))])
                at = int(random.integers(most if ways[-1] == "moment" else written))
                work = at_moment if ways[-1] == "moment" else in_a_write
                if not (out / "head.json").exists() or (out / "checkpoint.safetensors").exists():
                    codes.append(forked(partial(work, store, name, out, at)))
            ended = (out / "head.json").exists() and not (out / "checkpoint.safetensors").exists()
            code = 0 if ended else forked(partial(fit, store, name, out, lambda: None))
            resumed = sum('"resume"' in line for line in (out / "log.jsonl").read_text().splitlines())
            line = {"config": name, "ways": ways, "killed": codes, "code": code, "resumed": resumed}
            line["same"] = code == 0 and left(out) == reference
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
            shutil.rmtree(out)


if __name__ == "__main__":
    main()
