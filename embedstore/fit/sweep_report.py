"""What a sweep tells while it runs, and the figures of its members when it is done."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from embedstore.documents import HeadConfig, load_document
from embedstore.fit.files import read_log
from embedstore.model import CONFIG

if TYPE_CHECKING:
    from pathlib import Path

    from embedstore.fit.grid import Member


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepProgress:
    """Where a pass stands: `heads` learn, `resumed` from a checkpoint, `failed` gave up.

    Epochs and steps count from 1; seconds and rate are the pass's.
    """

    number: int
    passes: int
    heads: int
    resumed: int
    failed: int
    epoch: int
    step: int
    steps: int
    seconds: float
    samples_per_second: float
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPass:
    """One pass: who learnt, what `stream` they read, and seconds, of which some were waited for tokens."""

    names: tuple[str, ...]
    stream: dict[str, Any]
    images: int
    skipped: dict[str, int]
    steps: int
    seconds: float
    loading_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepMember:
    """One head of a sweep. `recall` (shares of 1) and `temperature` are the kept epoch's, `loss` the last's.

    `status`: fitted now, kept from an earlier run, or failed with `error`. `seconds` are its own steps'.
    `curve`: epoch to what its log says of it.
    """

    name: str
    varied: dict[str, Any]
    status: Literal["fitted", "kept", "failed"]
    error: str | None = None
    head_sha256: str | None = None
    parameters: int | None = None
    epochs: int = 0
    kept_epoch: int | None = None
    loss: float | None = None
    temperature: float | None = None
    recall: dict[str, float] | None = None
    seconds: float | None = None
    curve: tuple[dict[str, Any], ...] = ()

    @property
    def mean_recall(self) -> float | None:
        """Mean of both directions, where it was validated."""
        return sum(self.recall.values()) / len(self.recall) if self.recall else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """All members in their order, and the passes of this run (none for what was finished before)."""

    out: Path
    members: tuple[SweepMember, ...]
    passes: tuple[SweepPass, ...]
    device: str
    seconds: float

    @property
    def failed(self) -> tuple[SweepMember, ...]:
        """Members without a head."""
        return tuple(member for member in self.members if member.status == "failed")

    @property
    def ranked(self) -> tuple[SweepMember, ...]:
        """The best validation recall first; members without one in their order, failed ones last."""
        return tuple(sorted(self.members, key=lambda m: (m.status == "failed", -(m.mean_recall or 0.0))))

    def to_dict(self) -> dict[str, Any]:
        """Everything but the curves, as plain values for JSON."""
        members = [
            {name: value for name, value in asdict(member).items() if name != "curve"}
            for member in self.members
        ]
        return {
            "out": str(self.out),
            "device": self.device,
            "seconds": self.seconds,
            "passes": [asdict(each) | {"names": list(each.names)} for each in self.passes],
            "members": members,
        }


def read_member(out: Path, member: Member, *, kept: bool, error: str | None) -> SweepMember:
    """A member's figures out of its folder."""
    lines = read_log(out / member.name)
    of = {kind: [line for line in lines if line["kind"] == kind] for kind in ("start", "epoch", "end")}
    found: dict[str, Any] = {"name": member.name, "varied": member.varied, "curve": tuple(of["epoch"])}
    if of["start"]:
        found["parameters"] = of["start"][-1]["parameters"]
    if of["epoch"]:
        found |= {"epochs": of["epoch"][-1]["epoch"], "loss": of["epoch"][-1]["loss"]}
    if error is not None:
        return SweepMember(status="failed", error=error, **found)
    head = load_document(HeadConfig, out / member.name / CONFIG)
    epoch = of["end"][-1]["kept_epoch"]
    chosen = next(line for line in of["epoch"] if line["epoch"] == epoch)
    return SweepMember(
        status="kept" if kept else "fitted",
        head_sha256=head.fingerprint,
        kept_epoch=epoch,
        temperature=head.temperature,
        recall=chosen.get("recall@1"),
        seconds=of["end"][-1]["seconds"],
        **found,
    )
