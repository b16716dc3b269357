"""By whom an encode is made, and which part of it; nothing of this stands in a store."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedstore.errors import UsageError

if TYPE_CHECKING:
    from typing import Self

ENGINES = ("local", "ray")
_PART = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")


@dataclass(frozen=True, kw_only=True)
class Part:
    """Every `count`-th unit of every feature, from the `index`-th on, counted from 1."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """`i/n`; `UsageError` for anything else and where i is not one of 1 to n."""
        found = _PART.fullmatch(text)
        index, count = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= index <= count:
            allowed = f"1/{count} to {count}/{count}" if count else "I/N with I from 1 to N, e.g. 1/8"
            raise UsageError("bad part", where="--part", found=text, allowed=allowed)
        return cls(index=index, count=count)

    def has(self, unit: int) -> bool:
        """Whether a unit belongs to this part."""
        return unit % self.count == self.index - 1


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Options of the engine of `encode_source`; the bytes of a store depend on `threads` at most."""

    engine: str = "local"
    """`local` or `ray`."""
    devices: str | None = None
    """One process each: `0,1`, `all` (GPUs), `cpu,cpu` or `2xcpu`. None: this process alone."""
    part: Part = Part()
    """The units that this run makes; other runs make the others."""
    threads: int | None = None
    """Threads that compute, in each process. None: OMP_NUM_THREADS, else an equal share of the cores."""
    ray_address: str | None = None
    """Of a cluster. None: $RAY_ADDRESS, else a Ray of this machine that ends with the run."""
    ray_workers: int | None = None
    """Actors on Ray. None: one a GPU; one a machine where there are none."""

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise UsageError(
                "unknown engine", where="--engine", found=self.engine, allowed=", ".join(ENGINES)
            )
        for name in ("threads", "ray_workers"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= 4096:
                option = f"--{name.replace('_', '-')}"
                raise UsageError("option out of range", where=option, found=value, allowed="1 to 4096")
        if self.engine == "ray" and self.devices is not None:
            raise UsageError(
                "--devices names devices of this machine",
                found=self.devices,
                todo="with --engine ray give --ray-workers N, and --device cpu or cuda",
            )
        if self.engine == "local":
            for name in ("ray_address", "ray_workers"):
                if getattr(self, name) is not None:
                    option = f"--{name.replace('_', '-')}"
                    raise UsageError(f"{option} has no meaning here", todo="add --engine ray")
