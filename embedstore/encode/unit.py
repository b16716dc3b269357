"""What a pass hands to the store's writer for one work unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedstore.documents import ArrayName, QuarantinedRow
    from embedstore.shapes import AnyArray


@dataclass(frozen=True, kw_only=True)
class EncodedUnit:
    """Arrays of one unit as `FeatureWriter.write_unit` takes them, and what happened to its rows."""

    unit: int
    arrays: dict[ArrayName, AnyArray]
    quarantined: tuple[QuarantinedRow, ...] = ()
    thumbnails: tuple[bytes | None, ...] | None = None
    truncated: int = 0
