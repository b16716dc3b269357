"""Texts of different lengths, padded to one with a mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from embedstore.errors import UsageError

if TYPE_CHECKING:
    from embedstore.shapes import AnyArray, IntArray


@dataclass(frozen=True, slots=True)
class Padded:
    """Tokens `(b, l, d)` of several texts, zeros behind each; `mask (b, l)` bool, True where one is real."""

    tokens: AnyArray
    mask: npt.NDArray[np.bool_]


def pad(tokens: AnyArray, lengths: IntArray, places: int | None) -> Padded:
    """Packed `tokens (sum of lengths, …)` with as many `places` for every text; none: of the longest."""
    wide = padded_length(lengths, places)
    mask = np.arange(wide) < lengths[:, None]
    room = np.zeros((*mask.shape, *tokens.shape[1:]), tokens.dtype)
    room[mask] = tokens
    return Padded(room, mask)


def padded_length(lengths: IntArray, wanted: int | None) -> int:
    """Places of a padded text: as many as the longest has, or as are wanted; `UsageError` for too few."""
    longest = int(lengths.max(initial=0))
    if wanted is not None and wanted < longest:
        raise UsageError(
            "a text has more tokens than there is room for", found=longest, allowed=f"up to {wanted}"
        )
    return longest if wanted is None else wanted
