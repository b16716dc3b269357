"""The folder a fit leaves: head.json, head.safetensors, fit.json and log.jsonl."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from safetensors.torch import save

from embedstore.errors import UsageError
from embedstore.model import CONFIG, WEIGHTS
from embedstore.store import files

if TYPE_CHECKING:
    from torch import Tensor

    from embedstore.documents import FitConfig, HeadConfig

FIT = "fit.json"
LOG = "log.jsonl"


class HeadFolder:
    """The output folder: `head.json` is written last, so a folder with one holds a finished head.

    `UsageError` where a finished head is already there, unless `overwrite`; it then stays until the new one
    is finished.
    """

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        self.path = path
        if path.exists() and not path.is_dir():
            raise UsageError("the output is a file", where=path, todo="name a folder")
        if (path / CONFIG).exists() and not overwrite:
            raise UsageError(
                "a finished head is already here",
                where=path,
                todo="name another folder, or replace it with --overwrite",
            )
        path.mkdir(parents=True, exist_ok=True)

    def finish(self, head: HeadConfig, fit: FitConfig, weights: dict[str, Tensor]) -> HeadConfig:
        """Write all but the log, each under a temporary name first; returns `head` with the weights' hash."""
        content = save({name: tensor.contiguous() for name, tensor in weights.items()})
        finished = head.model_copy(update={"weights_sha256": hashlib.sha256(content).hexdigest()})
        (self.path / CONFIG).unlink(missing_ok=True)
        files.replace(self.path / WEIGHTS, content)
        files.replace(self.path / FIT, fit.to_json().encode())
        files.replace(self.path / CONFIG, finished.to_json().encode())
        return finished


class FitLog:
    """One JSON document a line, readable while the fit runs; the log of an earlier run is replaced.

    Without a folder what is written goes nowhere: of several processes one logs.
    """

    def __init__(self, folder: Path | None) -> None:
        self._file = (folder / LOG if folder else Path(os.devnull)).open("w", encoding="utf-8")

    def write(self, kind: str, **fields: Any) -> None:
        """Append one line; floats with six digits."""
        rounded = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in fields.items()}
        self._file.write(json.dumps({"kind": kind, **rounded}) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
