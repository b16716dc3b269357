"""Versions of the libraries that a report depends on."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedstore.documents import EncoderCard

ALWAYS = ("embedstore", "torch", "numpy")
# Of one library only one is installed.
FAISS = ("faiss-gpu", "faiss-cpu")
PROBES = ("scikit-learn",)


def versions_of(*more: str) -> dict[str, str]:
    """Installed distributions to their versions: those of every figure, and of `more` those that are here."""
    found = {}
    for name in dict.fromkeys((*ALWAYS, *more)):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def of_encoder(card: EncoderCard | None) -> tuple[str, ...]:
    """The libraries that an encoder runs on, for tasks that run it."""
    return () if card is None else tuple(card.versions)
