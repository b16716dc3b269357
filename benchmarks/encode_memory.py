"""Encode a folder in a process of its own and print the most memory that it ever had, in MB."""

from __future__ import annotations

import sys
from pathlib import Path

from embedstore.encode import EncodeOptions, encode_source


def main(source: str, store: str, spec: str) -> None:
    """Units of one size, whatever the size of the data set."""
    options = EncodeOptions(shard_rows=64, batch_size=32, workers=2, device="cpu")
    encode_source(source, store, image_encoders=[f"v={spec}"], options=options)
    print(peak())


def peak() -> float:
    """MB of this program alone: `ru_maxrss` would also tell of the one that started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    main(*sys.argv[1:])
