"""Which command makes a feature, or what is missing of it: for messages that say what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from embedstore.errors import StoreError
from embedstore.store import journal, layout
from embedstore.store.create import read_plan

if TYPE_CHECKING:
    from pathlib import Path

    from embedstore.documents import FeatureHeader

Verb: TypeAlias = Literal["encode", "recode", "import", "compact"]


def made_by(store: Path, header: FeatureHeader) -> Verb:
    """The verb that made a feature of this store; a compacted feature keeps its header but for the rows."""
    if header.origin is not None and _is_here(store, header):
        return "recode"
    if read_plan(store).source.get("kind") == "compact":
        return "compact"
    if header.origin is not None:
        return "recode"
    return "import" if header.card.library == "imported" else "encode"


def _is_here(store: Path, header: FeatureHeader) -> bool:
    """Whether the very feature that this one was recoded from lies in the same store."""
    if header.origin is None:
        return False
    try:
        found = journal.read_manifest(layout.feature(store, header.origin.feature))
    except StoreError:
        return False
    return found is not None and found.fingerprint == header.origin.manifest_fingerprint


def make_again(store: Path, header: FeatureHeader) -> str:
    """What the user runs to have the missing units of a feature made."""
    verb = made_by(store, header)
    if verb == "compact":
        return "remove this store and run the same embedstore compact command again"
    if verb == "recode" and header.origin is not None:
        return (
            f"run again: embedstore recode STORE {header.origin.feature} --policy {header.policy} --as "
            f"{header.name}; it makes what is missing"
        )
    return f"run the same embedstore {verb} command again: it makes what is missing"
