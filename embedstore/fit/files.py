"""The folder a fit leaves: head.json, head.safetensors, fit.json and log.jsonl."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from safetensors.torch import save

from embedstore.documents import FitConfig, HeadConfig, load_document
from embedstore.errors import EmbedstoreError, HeadError, UsageError
from embedstore.fit.checkpoint import CHECKPOINT, unfinished
from embedstore.fit.config import without_paths
from embedstore.fit.tensorboard import Events, remove_events
from embedstore.model import CONFIG, WEIGHTS
from embedstore.store import files, layout

if TYPE_CHECKING:
    from torch import Tensor

    from embedstore.fit.checkpoint import Identity, Unfinished

FIT = "fit.json"
LOG = "log.jsonl"


class HeadFolder:
    """The output folder: `head.json` is written last, so a folder with one holds a finished head.

    While the fit is not finished there may be a checkpoint, `begun`, to go on from; without `identity` there
    is none that would be looked at. `UsageError` where that
    is of another fit, and where a finished head is already there; with `overwrite` such a checkpoint is
    forgotten, and the head stays until the new one is finished.
    """

    def __init__(self, path: Path, identity: Identity | None = None, *, overwrite: bool = False) -> None:
        self.path = path
        if path.exists() and not path.is_dir():
            raise UsageError("the output is a file", where=path, todo="name a folder")
        self.begun = None if identity is None else self._begun(identity, overwrite=overwrite)
        ended_here = identity is not None and self.begun is not None and self._finished(identity)
        if (path / CONFIG).exists() and not (overwrite or ended_here):
            raise UsageError(
                "a finished head is already here",
                where=path,
                todo="name another folder, or replace it with --overwrite",
            )
        path.mkdir(parents=True, exist_ok=True)

    def _begun(self, identity: Identity, *, overwrite: bool) -> Unfinished | None:
        try:
            begun = unfinished(self.path)
            if begun is not None:
                begun.identity.refuse_another(identity, begun.path)
        except (HeadError, UsageError):
            if not overwrite:
                raise
            return None
        return begun

    def _finished(self, identity: Identity) -> bool:
        """Whether the head that is here came of the same fit, which was killed before it could tidy up."""
        try:
            head, fit = (
                load_document(HeadConfig, self.path / CONFIG),
                load_document(FitConfig, self.path / FIT),
            )
        except EmbedstoreError:
            return False
        learnt = {"temperature": identity.head.temperature, "weights_sha256": identity.head.weights_sha256}
        return fit == without_paths(identity.fit) and head.model_copy(update=learnt) == identity.head

    def finish(self, head: HeadConfig, fit: FitConfig, weights: dict[str, Tensor]) -> HeadConfig:
        """Write all but the log, each under a temporary name first; returns `head` with the weights' hash."""
        content = save({name: tensor.contiguous() for name, tensor in weights.items()})
        finished = head.model_copy(update={"weights_sha256": hashlib.sha256(content).hexdigest()})
        (self.path / CONFIG).unlink(missing_ok=True)
        files.replace(self.path / WEIGHTS, content)
        files.replace(self.path / FIT, without_paths(fit).to_json().encode())
        files.replace(self.path / CONFIG, finished.to_json().encode())
        files.remove(self.path / CHECKPOINT)
        self.tidy()
        return finished

    def tidy(self) -> None:
        """Remove what writers that were killed have left half written."""
        for left in self.path.iterdir():
            if layout.is_temporary(left.name):
                left.unlink(missing_ok=True)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a fit's log."""
    return [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]


class FitLog:
    """One JSON document a line, readable while the fit runs; log and events of an earlier run are replaced.

    Of a run that has `begun` stays what was there at its checkpoint. `tensorboard`: the same figures as
    events beside it. Without a folder what is written goes nowhere: of several processes one logs.
    `UsageError` while another process writes to it.
    """

    def __init__(
        self, folder: Path | None, *, begun: Unfinished | None = None, tensorboard: bool = False
    ) -> None:
        place = Path(os.devnull) if folder is None else folder / LOG
        self._file = place.open("a", encoding="utf-8")
        self._events: Events | None = None
        if folder is None:
            return
        try:
            _lock(self._file.fileno(), folder)
        except BaseException:
            self._file.close()
            raise
        self._file.truncate(0 if begun is None else min(begun.log_bytes, self.size))
        if begun is None:
            remove_events(folder)
        if tensorboard:
            self._events = Events(folder, after=None if begun is None else begun.step)

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return os.fstat(self._file.fileno()).st_size

    def write(self, kind: str, **fields: Any) -> None:
        """Append one line; floats with six digits."""
        rounded = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in fields.items()}
        self._file.write(json.dumps({"kind": kind, **rounded}) + "\n")
        self._file.flush()
        if self._events is not None:
            self._events.write(kind, fields)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()


def _lock(handle: int, folder: Path) -> None:
    """Until the file is closed; where the system has no locks, without one."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(
            "another fit is writing to this folder", where=folder, todo="wait for it, or name another folder"
        ) from None
    except (ImportError, OSError):
        return
