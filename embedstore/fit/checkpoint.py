"""Where an unfinished fit stands, in one file: tensors, and beside them what is no tensor.

The file is replaced whole, so that a fit that is killed at any moment leaves the last one as it was.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from embedstore.documents import FitConfig, HeadConfig, differing_fields
from embedstore.errors import HeadError, UsageError
from embedstore.store import files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from embedstore.documents import Document
    from embedstore.shapes import IntArray

CHECKPOINT = "checkpoint.safetensors"
MINUTES = 2.0
VERSION = 1
_SHARE = 0.01
_FIRST_BYTES_A_SECOND = 200e6
_LEAST_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a fit needs to go on. `numbers` is plain JSON; floats come back to the bit."""

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a fit is of: another one never goes on from its checkpoint.

    `rows`: sha256 of all image and text rows that an epoch may bring.
    """

    fit: FitConfig
    head: HeadConfig
    rows: str

    @classmethod
    def of(cls, fit: FitConfig, head: HeadConfig, images: IntArray, texts: IntArray) -> Identity:
        """With rows `(n,)` and `(m,)`."""
        digest = hashlib.sha256(len(images).to_bytes(8, "little"))
        digest.update(images.tobytes())
        digest.update(texts.tobytes())
        return cls(fit=fit, head=head, rows=digest.hexdigest())

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "fit": self.fit.model_dump(mode="json"),
            "head": self.head.model_dump(mode="json"),
            "rows": self.rows,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Identity:
        """The way back."""
        return cls(
            fit=FitConfig.model_validate_json(json.dumps(value["fit"]), strict=True),
            head=HeadConfig.model_validate_json(json.dumps(value["head"]), strict=True),
            rows=str(value["rows"]),
        )

    def refuse_another(self, now: Identity, path: Path) -> None:
        """`UsageError` with every field in which the fit that begins now differs from this one."""
        for what, ours, theirs in (
            ("configuration", self.fit, now.fit),
            ("store", self.head, now.head),
        ):
            if fields := _fields(ours, theirs):
                raise _another(what, path, fields)
        if self.rows != now.rows:
            raise _another("set of rows", path, "the features hold other usable rows than when it began")


def _fields(begun: Document, now: Document) -> str:
    found = differing_fields(begun, now)
    return "; ".join(f"{name}: begun with {a!r}, now {b!r}" for name, (a, b) in found.items())


def _another(what: str, path: Path, found: str) -> UsageError:
    return UsageError(
        f"an unfinished fit with another {what} is here",
        where=path.parent,
        found=found,
        todo="give what it was begun with to go on, name another folder, or begin anew with --overwrite",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """What a folder's checkpoint says of itself: whose it is, and the step that it stands at."""

    identity: Identity
    step: int
    steps: int
    path: Path
    _numbers: dict[str, Any]

    @property
    def log_bytes(self) -> int:
        """Size of the log when it was written."""
        return int(self._numbers["run"]["log_bytes"])

    def snapshot(self) -> Snapshot:
        """All of it, tensors on the host."""
        with safe_open(self.path, framework="pt") as file:
            return Snapshot(
                tensors={name: file.get_tensor(name) for name in file.keys()},  # noqa: SIM118 - no mapping
                numbers=self._numbers,
            )


def unfinished(folder: Path) -> Unfinished | None:
    """The checkpoint of a folder, where there is one; `HeadError` for one that cannot be read."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["embedstore"])
        if about["version"] != VERSION:
            raise HeadError(
                "the checkpoint is of another version of embedstore",
                where=path,
                found=about["version"],
                allowed=VERSION,
                todo="finish the fit with that version, or begin anew with --overwrite",
            )
        return Unfinished(
            identity=Identity.from_json(about["identity"]),
            step=int(about["step"]),
            steps=int(about["steps"]),
            path=path,
            _numbers=about["numbers"],
        )
    except (SafetensorError, KeyError, TypeError, ValueError) as bad:
        raise HeadError(
            f"the checkpoint cannot be read: {bad}", where=path, todo="begin anew with --overwrite"
        ) from None


class Checkpoints:
    """Writes the checkpoint of one folder, seldom enough to cost less than a hundredth of the time.

    After every `minutes`, and where an epoch ends, but never before a hundred times what the last one took
    has passed; or after every `steps` steps, where these are given.
    """

    def __init__(
        self,
        folder: Path,
        identity: Identity,
        *,
        minutes: float = MINUTES,
        steps: int | None = None,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        if not minutes > 0 or (steps is not None and steps < 1):
            raise UsageError(
                "a checkpoint takes some time or steps",
                found=f"checkpoint_minutes {minutes}, checkpoint_steps {steps}",
                allowed="above 0",
            )
        self.path, self._identity = folder / CHECKPOINT, identity
        self._seconds, self._steps, self._now = 60 * minutes, steps, now
        self._last, self._cost = now(), 0.0

    def due(self, step: int, *, epoch_end: bool, nbytes: Callable[[], int]) -> bool:
        """Whether to write one after this step (from 1); `nbytes` tells how large it would be."""
        if self._steps is not None:
            return step % self._steps == 0
        passed = self._now() - self._last
        if passed < (_LEAST_SECONDS if epoch_end else self._seconds):
            return False
        cost = self._cost or nbytes() / _FIRST_BYTES_A_SECOND
        return passed >= cost / _SHARE

    def write(self, snapshot: Snapshot, *, step: int, steps: int) -> None:
        """Replace the one that is there."""
        begun = self._now()
        about = {
            "version": VERSION,
            "identity": self._identity.to_json(),
            "step": step,
            "steps": steps,
            "numbers": snapshot.numbers,
            "torch": torch.__version__,
        }
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in snapshot.tensors.items()}
        files.replace(self.path, save(tensors, {"embedstore": json.dumps(about)}))
        self.took(begun)

    def took(self, begun: float) -> None:
        """What was written since `begun`, here or elsewhere, is what the next one will cost."""
        self._last = self._now()
        self._cost = self._last - begun

    def remove(self) -> None:
        """The fit is finished, or begins anew."""
        files.remove(self.path)
