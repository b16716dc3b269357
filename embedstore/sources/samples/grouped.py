"""What sources whose rows were grouped to `Samples` have in common."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from embedstore.sources.base import Sample

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embedstore.sources.base import Picture
    from embedstore.sources.samples.grouping import Samples


class GroupedSource(ABC):
    """Random access to `_samples`; a kind sets `_samples` and `_identity`, and says what a picture is."""

    shuffled: bool = True
    _samples: Samples
    _identity: Mapping[str, str | int | float | bool]

    @property
    def identity(self) -> Mapping[str, str | int | float | bool]:
        """Kind, options and mapped columns; where the files lie and what they say is no part of it."""
        return dict(self._identity)

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels that occur, sorted."""
        return tuple(sorted(self._samples.label.values))

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(index)
        found = self._samples
        id_ = found.ids[index].as_py()
        return Sample(
            id=id_,
            picture=self._picture(index, id_),
            captions=found.captions(index),
            label=found.label[index],
            split=found.split[index],
        )

    @abstractmethod
    def _picture(self, index: int, id_: str) -> Picture | None:
        """The picture of one sample; none where it has none."""
