"""Kill writers of small stores at random points; run as a process of its own, which never imports torch.

`python killer.py FOLDER KILLS SEED` prints one JSON line a kill and one a finished store. Each writer is a
forked child. It dies by SIGKILL in one of three ways: by its own hand at a drawn effect, in the middle of a
drawn vector write, or by the hand of its parent, which counts effects through a pipe and so strikes while the
child is already on its way to the next.
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
from typing import TYPE_CHECKING

import numpy as np

from embedstore.store import compact_store, open_store, verify_store
from embedstore.store.failpoints import listening
from embedstore.testing.stores import write_random_store

if TYPE_CHECKING:
    from collections.abc import Callable

WAYS = ("effect", "write", "parent")


def write(folder: Path) -> None:
    """A store of two features, 3 and 6 units."""
    write_random_store(folder / "store", images=12, captions=2, image_tokens=4, image_width=6, shard_rows=4)


def compact(folder: Path) -> None:
    """The same store without some rows; the old one is there already."""
    compact_store(folder / "store", folder / "new", drop=["s000003", "s000010#1"])


VERBS = {"write": write, "compact": compact}


def tree(folder: Path) -> dict[str, str]:
    """Every file with the sha256 of its bytes."""
    files = (Path(here, name) for here, _, names in os.walk(folder) for name in names)
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def forked(work: Callable[[], None]) -> int:
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


def count_effects(work: Callable[[], None]) -> int:
    """Effects of an undisturbed run."""
    reading, writing = os.pipe()

    def counted() -> None:
        with listening(lambda _: os.write(writing, b".")):
            work()

    child = forked(counted)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        count = len(pipe.read())
    if outcome(child):
        sys.exit("an undisturbed run failed")
    return count


def at_effect(work: Callable[[], None], at: int) -> None:
    """Work until the effect `at`, before or after it."""
    left = [at]

    def step(name: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    with listening(step):
        work()


def in_a_write(work: Callable[[], None], at: int) -> None:
    """Work until half of the vector write `at` is written."""
    left, writev = [at], os.writev

    def torn(handle: int, pieces: list[memoryview]) -> int:
        left[0] -= 1
        if left[0] < 0:
            whole = b"".join(pieces)
            os.write(handle, whole[: len(whole) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return writev(handle, pieces)

    os.writev = torn
    work()


def by_its_parent(work: Callable[[], None], at: int) -> int:
    """Kill a worker when it has told of its effect `at`; its outcome."""
    reading, writing = os.pipe()

    def telling() -> None:
        os.close(reading)
        with listening(lambda _: os.write(writing, b".")):
            work()

    child = forked(telling)
    os.close(writing)
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        seen = 0
        while seen <= at and (more := pipe.read(1)):
            seen += len(more)
    if seen > at:
        os.kill(child, signal.SIGKILL)
    return outcome(child)


def killed(work: Callable[[], None], way: str, at: int) -> bool:
    """Whether a writer that was to die at its `at`-th step did; False where it had finished before."""
    if way == "parent":
        code = by_its_parent(work, at)
    else:
        code = outcome(forked(partial(at_effect if way == "effect" else in_a_write, work, at)))
    if code not in (0, -signal.SIGKILL):
        sys.exit(f"a writer failed: exit code {code}")
    return code != 0


def records(place: Path) -> int:
    """Units of a store that are done, of however many features."""
    places = [p for p in (place, place.with_name(place.name + ".unfinished")) if (p / "plan.json").is_file()]
    opened = [open_store(p) for p in places]
    return sum(store.progress(name)[0] for store in opened for name in store.features())


def check(folder: Path) -> None:
    """What is there is sound, half made or not, as far as it is planned."""
    for place in sorted(folder.iterdir()):
        if (place / "plan.json").is_file() and not verify_store(place, workers=1).sound:
            sys.exit(f"{place.name} is damaged")


def tell(line: dict[str, object]) -> None:
    """One line of JSON."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Kill until so many kills have hit real work, each store finished in the end."""
    root, wanted, random = Path(sys.argv[1]), int(sys.argv[2]), np.random.default_rng(int(sys.argv[3]))
    os.fsync = lambda handle: None  # kill -9 takes nothing from the page cache
    whole = root / "whole"
    # Here first, so that children find every module loaded; no thread is at work when they are forked.
    write(whole)
    compact(whole)
    check(whole)
    shutil.rmtree(whole)
    effects = {verb: count_effects(partial(work, whole)) for verb, work in VERBS.items()}
    reference = tree(whole)
    hits = number = 0
    while hits < wanted:
        folder = root / f"killed-{number}"
        verb = "compact" if number % 4 == 3 else "write"
        place = folder / ("new" if verb == "compact" else "store")
        if verb == "compact":
            shutil.copytree(whole / "store", folder / "store")
        work = partial(VERBS[verb], folder)
        mine = {k: v for k, v in reference.items() if verb == "compact" or k.startswith("store/")}
        while True:
            way = WAYS[int(random.integers(3))]
            # Early enough that a store is killed several times on its way; a third of the effects are writes,
            # each passed before and after.
            most = effects[verb] // (18 if way == "write" else 3)
            at, before = int(random.integers(most)), records(place)
            if not killed(work, way, at) or (place / "features/words/manifest.json").is_file():
                break
            hits += 1
            tell({"kill": hits, "verb": verb, "way": way, "before": before, "records": records(place)})
            if outcome(forked(partial(check, folder))):
                sys.exit(f"kill {hits} left damage")
        if outcome(forked(work)):
            sys.exit(f"store {number} could not be finished")
        tell({"store": number, "verb": verb, "same": tree(folder) == mine})
        shutil.rmtree(folder)
        number += 1


if __name__ == "__main__":
    main()
