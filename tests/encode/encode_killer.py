"""Kill encodes at drawn moments, and resume each of them; run as a process of its own.

`python encode_killer.py FOLDER SOURCE VISION WORDS KILLS SEED [DEVICES]` prints one JSON line a kill. It
loads every library once and forks: each encode is a child that does the whole of it, from the plan to the
manifests. A moment is drawn out of all that an undisturbed run passes: every effect of the writer and every
batch that is computed. The child then dies by SIGKILL in one of three ways: by its own hand at that moment,
in the middle of a vector write, or by the hand of its parent, which hears of the moment through a pipe and so
strikes while the child is anywhere behind it: decoding, computing, storing. With DEVICES (`cpu,cpu`) the
encode has workers; its parent then kills the coordinator or one worker. A last line is of three parts of a
job array that run at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import transformers

from embedstore.encode import EncodeOptions, EngineOptions, Part, encode_source
from embedstore.store import open_store, verify_store
from embedstore.store.failpoints import listening

if TYPE_CHECKING:
    from collections.abc import Callable

    from embedstore.encode import EncodeSummary

WAYS = ("moment", "write", "parent")
UNITS = {"vision": 5, "words": 10}
OPTIONS = EncodeOptions(batch_size=4, shard_rows=8, limit=40, thumbnails=16, policy="int8")
# What a child would import otherwise, each time again.
LOADED = (transformers.Dinov2Model, transformers.BitImageProcessor, transformers.BertModel)


def encode(
    store: Path, tell: Callable[[str], None], devices: str | None = None, part: Part | None = None
) -> EncodeSummary:
    """The whole encode: two features, 5 and 10 units, under a policy that learns."""
    source, vision, words = sys.argv[2:5]
    # A coordinator of workers has effects of its own before and after them only; its moments are batches.
    with listening(tell if devices is None else nothing):
        return encode_source(
            source,
            store,
            image_encoders=[f"vision=hf:{vision}"],
            text_encoders=[f"words=hf:{words}"],
            options=OPTIONS,
            engine=EngineOptions(devices=devices, part=part or Part()),
            on_progress=lambda _: tell("batch"),
        )


def resume(store: Path) -> None:
    """Encode what is missing, and nothing else."""
    wanted = -1
    if (store / "plan.json").is_file():
        opened = open_store(store)
        there = {name: opened.progress(name)[0] for name in opened.features()}
        wanted = sum(UNITS.values()) - sum(there.values())
    made = encode(store, nothing)
    # All units have 8 rows.
    fresh = sum(feature.fresh for feature in made.features) // 8
    if wanted not in {-1, fresh}:
        sys.exit(f"{fresh} units were made, {wanted} were missing")


def tree(folder: Path) -> dict[str, str]:
    """Every file with the sha256 of its bytes."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def forked(work: Callable[[], object]) -> int:
    """Do some work in a child; its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    finally:
        # A child must never run on into what its parent does.
        if code:
            traceback.print_exc()
        os._exit(code)


def outcome(child: int) -> int:
    """Exit code of a child, negative for the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die(*_anything: object) -> None:
    """End this process as a power switch would."""
    os.kill(os.getpid(), signal.SIGKILL)


def nothing(_: str) -> None:
    """Listen to nothing."""


def at_moment(store: Path, at: int) -> None:
    """Encode until the moment `at`."""
    left = [at]

    def step(_: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            die()

    encode(store, step)


def in_a_write(store: Path, at: int) -> None:
    """Encode until half of the vector write `at` is written."""
    left, writev = [at], os.writev

    def torn(handle: int, pieces: list[memoryview]) -> int:
        left[0] -= 1
        if left[0] < 0:
            whole = b"".join(pieces)
            os.write(handle, whole[: len(whole) // 2])
            die()
        return writev(handle, pieces)

    os.writev = torn
    encode(store, nothing)


def by_its_parent(store: Path, at: int, strike: Callable[[int], None], devices: str | None = None) -> int:
    """Call `strike(child)` when an encode has told of its moment `at`; its outcome."""
    reading, writing = os.pipe()

    def telling() -> None:
        os.close(reading)
        encode(store, lambda _: os.write(writing, b"."), devices)

    child = forked(telling)
    os.close(writing)
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        seen = 0
        while seen <= at and (more := pipe.read(1)):
            seen += len(more)
        if seen > at:
            strike(child)
        while pipe.read(4096):
            pass
    return outcome(child)


def count_moments(store: Path, devices: str | None) -> tuple[int, int]:
    """Moments of an undisturbed run, and its vector writes."""
    moments, writes = [0], [0]
    reading, writing = os.pipe()

    def counted() -> None:
        writev = os.writev

        def seen(handle: int, pieces: list[memoryview]) -> int:
            writes[0] += 1
            return writev(handle, pieces)

        os.writev = seen
        encode(store, lambda _: moments.__setitem__(0, moments[0] + 1), devices)
        os.write(writing, json.dumps([moments[0], writes[0]]).encode())

    child = forked(counted)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    if outcome(child):
        sys.exit("an undisturbed run failed")
    most, written = json.loads(told)
    return most, written


def units(store: Path) -> tuple[int, int]:
    """Units that are done, and all; of features that are begun."""
    if not (store / "plan.json").is_file():
        return 0, 0
    opened = open_store(store)
    found = [opened.progress(name) for name in opened.features()]
    return sum(done for done, _ in found), sum(whole for _, whole in found)


def workers(store: Path) -> list[int]:
    """Process ids of the workers of the latest run that still live."""
    log = store.with_name(store.name + ".encode.log").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in log.splitlines()]
    found = [line["process"] for line in lines if line["event"] == "worker"]
    return [pid for pid in found if Path(f"/proc/{pid}").exists()]


def killed_here(store: Path, random: np.random.Generator, most: int, written: int) -> dict[str, Any]:
    """One encode in one process, killed at a drawn moment."""
    way = WAYS[int(random.integers(3))]
    at = int(random.integers(written if way == "write" else most))
    if way == "parent":
        code = by_its_parent(store, at, lambda child: os.kill(child, signal.SIGKILL))
    else:
        code = outcome(forked(partial(at_moment if way == "moment" else in_a_write, store, at)))
    return {"way": way, "at": at, "killed": code == -signal.SIGKILL, "code": code}


def killed_among(store: Path, random: np.random.Generator, most: int, devices: str) -> dict[str, Any]:
    """One encode by workers: its coordinator or one of them is killed, drawn like the moment."""
    way = ("coordinator", "worker")[int(random.integers(2))]
    at, struck, done = int(random.integers(most)), [], []

    def strike(child: int) -> None:
        there = workers(store)
        victim = child if way == "coordinator" or not there else there[int(random.integers(len(there)))]
        struck.append("coordinator" if victim == child else "worker")
        done.append(units(store)[0])
        os.kill(victim, signal.SIGKILL)

    code = by_its_parent(store, at, strike, devices)
    # Workers without a coordinator end by themselves, at once.
    began = time.monotonic()
    while workers(store):
        if time.monotonic() - began > 60:
            sys.exit("workers outlive their coordinator")
    line = {"way": way, "at": at, "killed": bool(struck), "code": code}
    return line | ({"way": struck[0], "done": done[0]} if struck else {})


def main() -> None:
    """Kill until so many kills have hit real work; each store is finished by the next run."""
    root, wanted, seed = Path(sys.argv[1]), int(sys.argv[5]), int(sys.argv[6])
    devices = sys.argv[7] if len(sys.argv) > 7 else None
    random = np.random.default_rng(seed)
    os.fsync = lambda _handle: None  # kill -9 takes nothing from the page cache
    whole = root / "whole"
    most, written = count_moments(whole, devices)
    reference = tree(whole)
    hits = number = 0
    while hits < wanted:
        store = root / f"killed-{number}"
        number += 1
        if devices is None:
            line = killed_here(store, random, most, written)
        else:
            line = killed_among(store, random, most, devices)
        done, of = units(store)
        sound = not (store / "plan.json").is_file() or verify_in_a_child(store)
        code = outcome(forked(partial(resume, store)))
        same = code == 0 and tree(store) == reference
        # Real work: killed with some units done and some to do.
        say = {"done": done} | line
        hit = bool(say["killed"]) and 0 < say["done"] < sum(UNITS.values())
        hits += hit
        say |= {"hit": hit, "begun": of, "sound": sound, "same": same}
        sys.stdout.write(json.dumps(say) + "\n")
        sys.stdout.flush()
        shutil.rmtree(store)
    store = root / "parts"
    parts = [Part(index=k, count=3) for k in (1, 2, 3)]
    children = [forked(partial(encode, store, nothing, part=part)) for part in parts]
    codes = [outcome(child) for child in children]
    sys.stdout.write(json.dumps({"parts": codes, "same": tree(store) == reference}) + "\n")


def verify_in_a_child(store: Path) -> bool:
    """Whether what is there is sound; threads of the check stay out of the process that forks."""
    return outcome(forked(lambda: os._exit(0 if verify_store(store, workers=1).sound else 3))) == 0


if __name__ == "__main__":
    main()
