"""How much memory this process may still fill, the system's page cache included."""

from __future__ import annotations

import re
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def free_memory() -> int | None:
    """Bytes that are free or would be made free, within the limit of a container; none where nobody tells."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", _MEMINFO.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    if found is None:
        return None
    return min(int(found[1]) << 10, *_limits())


def _limits() -> list[int]:
    try:
        most = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        return [int(most)] if most.isdigit() else [1 << 62]
    except OSError:
        return [1 << 62]
