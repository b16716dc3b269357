"""One forward pass and its features: what it is to make, and what it hands to the store's writers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedstore.documents import ArrayName, FeatureHeader, QuarantinedRow
    from embedstore.shapes import AnyArray
    from embedstore.store.coding.coder import Coder


@dataclass(frozen=True, kw_only=True)
class Target:
    """A feature that a pass makes: how it is stored, and which `output` of the encoder it is."""

    header: FeatureHeader
    coder: Coder
    output: int = 0


@dataclass(frozen=True, kw_only=True)
class EncodedUnit:
    """One work unit of every target of a pass, in order, and what happened to its rows.

    `arrays` as `FeatureWriter.write_unit` takes them; `thumbnails` are for the target that keeps them.
    """

    unit: int
    arrays: tuple[dict[ArrayName, AnyArray], ...]
    quarantined: tuple[QuarantinedRow, ...] = ()
    thumbnails: tuple[bytes | None, ...] | None = None
    truncated: int = 0
