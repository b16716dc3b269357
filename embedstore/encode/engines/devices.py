"""Devices of this machine, and how the processes of one run share its cores."""

from __future__ import annotations

import os
import re

from embedstore.errors import UsageError

_ALLOWED = "all, or a list as 0,1 or cuda:0,cuda:1 or cpu,cpu; 2xcpu is cpu,cpu"
_ONE = re.compile(r"(?:([1-9][0-9]{0,3})x)?([a-z]+(?::[0-9]+)?|[0-9]+)")
MOST_PROCESSES = 1024


def parse_devices(text: str) -> list[str]:
    """The devices that `--devices` names, one a process, as torch calls them.

    Raises `UsageError` for what is not a list of devices, for one that is not here, and for a mixture of
    kinds: what a GPU computes is another feature than what a CPU does.
    """
    from embedstore.encoders.device import pick_device

    parts = [] if text.strip() == "all" else text.split(",")
    named = [device for part in parts for device in _some(part, text)] or _all_gpus()
    if len(named) > MOST_PROCESSES:
        raise UsageError("too many devices", where="--devices", found=len(named), allowed=MOST_PROCESSES)
    found = [str(pick_device(name)) for name in named]
    kinds = {name.partition(":")[0] for name in found}
    if len(kinds) > 1:
        raise UsageError(
            "devices of several kinds make different features",
            where="--devices",
            found=text,
            todo="name devices of one kind",
        )
    return found


def _some(part: str, text: str) -> list[str]:
    match = _ONE.fullmatch(part.strip())
    if match is None:
        raise UsageError("bad list of devices", where="--devices", found=text, allowed=_ALLOWED)
    name = f"cuda:{match[2]}" if match[2].isdigit() else match[2]
    return [name] * int(match[1] or 1)


def _all_gpus() -> list[str]:
    import torch

    if not torch.cuda.is_available():
        raise UsageError(
            "this machine has no GPU that torch can use",
            where="--devices",
            found="all",
            todo="name devices: --devices 2xcpu",
        )
    return [f"cuda:{k}" for k in range(torch.cuda.device_count())]


def spare_gpus(device: str) -> str | None:
    """What to tell a user of one GPU who has several; none where nothing is to be told."""
    import torch

    from embedstore.encoders.device import pick_device

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device != "auto" or count < 2 or pick_device(device).type != "cuda":
        return None
    return f"one of {count} GPUs is used; --devices all uses them all"


def threads_for(workers: int, *, asked: int | None, cores_there: int) -> int:
    """Threads that compute in each of `workers` processes on `cores_there` cores."""
    if asked is not None:
        return asked
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) else max(1, cores_there // workers)
