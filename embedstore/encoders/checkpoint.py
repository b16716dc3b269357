"""Where a checkpoint is, and loading from it without noise and with errors that say what to do."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedstore.errors import EncoderError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

_HUB_ID = re.compile(r"^[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?$", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A local folder or a hub id. `model` is what a card may say: the id, or the folder's last part."""

    source: str
    model: str
    revision: str | None
    local: bool

    @property
    def arguments(self) -> dict[str, str]:
        """The keyword arguments of `from_pretrained` that choose the revision."""
        return {} if self.revision is None else {"revision": self.revision}

    def read_json(self, name: str) -> Any:
        """The parsed JSON file `name` of the checkpoint, or None where it has no such file."""
        path = Path(self.source, name) if self.local else self._download(name)
        if path is None or not path.is_file():
            return None
        return json.loads(path.read_text(encoding="utf-8"))

    def _download(self, name: str) -> Path | None:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        try:
            return Path(hf_hub_download(self.source, name, revision=self.revision))
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            return None


def locate(name: str, revision: str | None = None) -> Checkpoint:
    """A folder if there is one of this name, else a hub id; `EncoderError` where it can be neither."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise UsageError("a local folder has no revisions", where=name, found=f"revision={revision}")
        return Checkpoint(source=str(folder), model=folder.resolve().name, revision=None, local=True)
    if _HUB_ID.fullmatch(name) is None:
        raise EncoderError(
            "there is no such folder, and it is not a hub id",
            where=name,
            allowed="a folder with config.json and model.safetensors, or an id such as facebook/dinov2-small",
        )
    return Checkpoint(source=name, model=name, revision=revision, local=False)


@contextlib.contextmanager
def loading(checkpoint: Checkpoint, what: str) -> Iterator[None]:
    """Silence the libraries inside the block, and turn their failures into one `EncoderError`."""
    from safetensors import SafetensorError

    expected = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError)
    try:
        with quiet():
            yield
    except (*expected, SafetensorError) as bad:
        first = str(bad).strip().partition("\n")[0]
        raise EncoderError(
            f"cannot load the {what}",
            where=checkpoint.model,
            found=f"{type(bad).__name__}: {first}",
            todo="check that the folder is a complete checkpoint"
            if checkpoint.local
            else "check the id and the connection to the hub, or give a local folder",
        ) from bad


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries from writing bars, warnings and remarks."""
    from transformers.utils import logging as library

    ours = logging.getLogger("sentence_transformers")
    verbosity, bars, level = library.get_verbosity(), library.is_progress_bar_enabled(), ours.level
    library.set_verbosity_error()
    library.disable_progress_bar()
    ours.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        ours.setLevel(level)
        library.set_verbosity(verbosity)
        if bars:
            library.enable_progress_bar()
