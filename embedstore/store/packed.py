"""Tokens of several texts in one array: packed back to back, or padded to one length with a mask."""

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


@dataclass(frozen=True, slots=True)
class Packed:
    """Tokens `(sum, d)` of several texts, or their scales `(sum,)`, packed; `offsets (b + 1,)` int64."""

    tokens: AnyArray
    offsets: IntArray

    @property
    def lengths(self) -> IntArray:
        """Tokens of each text `(b,)` int64."""
        return np.diff(self.offsets)

    def padded(self, length: int | None = None) -> Padded:
        """The same with a place for every text alike: the longest text's, or `length`; padding is zero.

        `UsageError` where a text has more tokens than `length`.
        """
        wide = padded_length(self.lengths, length)
        tokens = np.zeros((len(self.offsets) - 1, wide, *self.tokens.shape[1:]), self.tokens.dtype)
        mask = np.arange(wide) < self.lengths[:, None]
        tokens[mask] = self.tokens
        return Padded(tokens, mask)


def padded_length(lengths: IntArray, wanted: int | None) -> int:
    """Places of a padded text: as many as the longest has, or as are wanted."""
    longest = int(lengths.max(initial=0))
    if wanted is not None and wanted < longest:
        raise UsageError(
            "a text has more tokens than there is room for", found=longest, allowed=f"up to {wanted}"
        )
    return longest if wanted is None else wanted
