"""Which command makes a feature, or what is missing of it: for messages that say what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from embedstore.errors import StoreError
from embedstore.store import journal, layout
from embedstore.store.create import read_plan

if TYPE_CHECKING:
    from pathlib import Path

    from embedstore.documents import FeatureHeader

Verb: TypeAlias = Literal["encode", "recode", "import", "compact", "apply"]


def made_by(store: Path, header: FeatureHeader) -> Verb:
    """The verb that made a feature of this store; a compacted feature keeps its header but for the rows."""
    source = _source(store, header)
    if source is not None:
        return "recode" if source.card == header.card else "apply"
    if read_plan(store).source.get("kind") == "compact":
        return "compact"
    if header.origin is not None:
        return "recode" if header.card.head is None else "apply"
    return "import" if header.card.library == "imported" else "encode"


def _source(store: Path, header: FeatureHeader) -> FeatureHeader | None:
    """The header of the very feature that this one was made from, where it lies in the same store."""
    if header.origin is None:
        return None
    try:
        found = journal.read_manifest(layout.feature(store, header.origin.feature))
    except StoreError:
        return None
    if found is None or found.fingerprint != header.origin.manifest_fingerprint:
        return None
    return found.header


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
