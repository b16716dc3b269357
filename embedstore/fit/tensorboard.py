"""A fit's log as TensorBoard events too, written by tensorboardX, which needs no TensorFlow."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from embedstore.errors import MissingExtraError

if TYPE_CHECKING:
    from pathlib import Path

_EVENTS = "events.out.tfevents.*"
_OF_STEPS = ("loss", "temperature", "lr")
_OF_EPOCHS = ("loss", "temperature", "samples_per_second", "loading_seconds")


def check_extra() -> None:
    """`MissingExtraError` before any work where the extra `tensorboard` is absent."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise MissingExtraError(
            "--tensorboard needs the package tensorboardX, which is not installed",
            todo="pip install 'embedstore[tensorboard]'",
        )


def remove_events(folder: Path) -> None:
    """Those that an earlier fit has left."""
    for old in folder.glob(_EVENTS):
        old.unlink(missing_ok=True)


class Events:
    """Scalars in `folder` by step: `step/loss`, `epoch/loss`, `validation/recall_at_1/text_to_image`….

    A fit that goes on after step `after` hides what was written past it.
    """

    def __init__(self, folder: Path, *, after: int | None = None) -> None:
        check_extra()
        from tensorboardX import SummaryWriter

        more = {} if after is None else {"purge_step": after + 1, "filename_suffix": f".{after}"}
        self._writer = SummaryWriter(logdir=str(folder), **more)

    def write(self, kind: str, fields: dict[str, Any]) -> None:
        """The figures of one line of the log."""
        named = {"step": _OF_STEPS, "epoch": _OF_EPOCHS}.get(kind, ())
        shown = {f"{kind}/{name}": fields[name] for name in named}
        shown |= {f"validation/recall_at_1/{way}": v for way, v in fields.get("recall@1", {}).items()}
        for tag, value in shown.items():
            self._writer.add_scalar(tag, value, fields["step"])
        if kind == "epoch":
            self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
