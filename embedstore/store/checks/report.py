"""What `verify` found, as values."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal["corrupt", "incomplete", "leftover"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be.

    `corrupt`: does not agree with the rest of the store; `incomplete`: work that another encode would do;
    `leftover`: a temporary file of a killed writer, harmless. `unit`: the damaged unit of `feature`.
    """

    kind: Kind
    where: str
    problem: str
    feature: str | None = None
    unit: int | None = None

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.problem}"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """Everything that was checked and found. `repaired` says what was done about it, in words.

    `nbytes` of the files of finished units, `nbytes_read` of them. `sample`: the share of the inner chunks
    that was to be tested, drawn by `seed`, none where all were: `chunks_tested` of `chunks`.
    """

    features: int
    subsets: int = 0
    prototypes: int = 0
    units: int
    files: int
    nbytes: int
    nbytes_read: int = 0
    chunks: int = 0
    chunks_tested: int = 0
    sample: float | None = None
    seed: int | None = None
    findings: tuple[Finding, ...] = ()
    repaired: tuple[str, ...] = ()
    remaining: int = 0

    @property
    def sound(self) -> bool:
        """Whether nothing is corrupt, or all of it was repaired; unfinished work is no damage."""
        return self.remaining == 0

    @property
    def corrupt(self) -> tuple[Finding, ...]:
        """The findings that mean damage."""
        return tuple(f for f in self.findings if f.kind == "corrupt")

    def to_dict(self) -> dict[str, Any]:
        """A JSON value."""
        return {"sound": self.sound, **asdict(self)}

    def to_json(self) -> str:
        """Stable text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
