"""Which spec gave which encoder: a per-user file outside every store, since a card carries no path."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedstore.encoders.spec import split_spec
from embedstore.errors import StoreError
from embedstore.store import files

if TYPE_CHECKING:
    from embedstore.documents import EncoderCard


def home() -> Path:
    """`$EMBEDSTORE_HOME`, or the platform's cache folder of this user."""
    chosen = os.environ.get("EMBEDSTORE_HOME")
    if chosen:
        return Path(chosen)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "embedstore"
    variable, fallback = (
        ("LOCALAPPDATA", "AppData/Local") if os.name == "nt" else ("XDG_CACHE_HOME", ".cache")
    )
    return Path(os.environ.get(variable) or Path.home() / fallback) / "embedstore"


def remember(card: EncoderCard, spec: str) -> None:
    """Note that `spec` gives the encoder of this card; a folder is noted by its absolute path.

    A memory that cannot be written is left as it is: no run fails for it. A module of one's own is not noted:
    it is named each time, or a store could have it run.
    """
    if split_spec(spec).kind == "python":
        return
    target = home() / "encoders.json"
    entries = _entries(target) | {_key(card): _absolute(spec)}
    with suppress(OSError, StoreError):
        files.replace(target, json.dumps(entries, indent=2, sort_keys=True).encode())


def recall(card: EncoderCard) -> str | None:
    """The spec that last gave the encoder of this card on this machine, or None."""
    found = _entries(home() / "encoders.json").get(_key(card))
    return None if found is None or found.startswith("python:") else found


def _entries(path: Path) -> dict[str, str]:
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(key): value for key, value in found.items() if isinstance(value, str)}


def _key(card: EncoderCard) -> str:
    return hashlib.sha256(json.dumps(card.identity, sort_keys=True).encode()).hexdigest()


def _absolute(spec: str) -> str:
    parsed = split_spec(spec)
    # An open_clip name is an architecture, a slash and perhaps a file of weights.
    architecture, slash, weights = parsed.name.partition("/")
    name, options = parsed.name, dict(parsed.options)
    if Path(name).expanduser().is_dir():
        name = str(Path(name).expanduser().resolve())
    elif slash and Path(weights).expanduser().is_file():
        name = f"{architecture}/{Path(weights).expanduser().resolve()}"
    if "checkpoint" in options:
        options["checkpoint"] = str(Path(str(options["checkpoint"])).expanduser().resolve())
    return str(replace(parsed, name=name, options=options))
