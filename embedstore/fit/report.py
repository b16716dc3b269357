"""What a fit tells while it runs and when it is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from embedstore.documents import FitConfig, HeadConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class FitProgress:
    """Where a fit stands after a step. Epochs and steps count from 1; times in seconds.

    `recall` is the validation's mean recall@1 after the last step of an epoch, where there is one.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    temperature: float
    lr: float
    samples_per_second: float
    eta: float
    device: str
    recall: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """What a fit did. `loss` is the mean of the last epoch; times in seconds; `skipped` reason to images.

    `epochs` and `steps` are those that were run, fewer than configured where `patience` stopped it.

    `cached_bytes`: tokens kept in the memory of the device; 0 where they were streamed. `resumed_from`: the
    step from which the last process went on; none where one did all. `processes` that made the steps
    together; times and bytes are the first one's.
    """

    out: Path
    head: HeadConfig
    config: FitConfig
    device: str
    parameters: int
    images: int
    epochs: int
    steps: int
    loss: float
    samples_per_second: float
    seconds: float
    loading_seconds: float
    skipped: dict[str, int]
    cached_bytes: int
    kept_epoch: int
    processes: int = 1
    resumed_from: int | None = None
    recall: dict[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON; the head by its fingerprint, its cards left out."""
        plain = {
            name: getattr(self, name) for name in self.__slots__ if name not in ("out", "head", "config")
        }
        return {
            "out": str(self.out),
            "head_sha256": self.head.fingerprint,
            "temperature": self.head.temperature,
            "config": self.config.model_dump(mode="json"),
            **plain,
        }
