"""The classes of a segmentation: which values of a mask are which, their embeddings, and the background."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedstore.bench.classes import ClassName, class_prompts, parse_classes
from embedstore.bench.prompts import class_vectors, speaker_of
from embedstore.bench.segmentation.maps import places
from embedstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from embedstore.bench.setting import Setting
    from embedstore.model.descriptions import Descriptions
    from embedstore.shapes import AnyArray, Float32Array

BACKGROUND = "background"


@dataclass(frozen=True, slots=True, kw_only=True)
class Classes:
    """What pixels are called. foreground: classes by their place; has_background: one more place behind.

    words: of the background, none where the best cosine below `below` makes it. place_of `(256,)`: the place
    of each value of a mask; vectors: of the foreground, and behind them of the background's words if any;
    options and notes: what a report tells of the prompts.
    """

    foreground: tuple[ClassName, ...]
    has_background: bool
    words: ClassName | None
    below: float | None
    place_of: AnyArray
    vectors: Float32Array
    templates: tuple[str, ...]
    options: Mapping[str, str | int | float | bool]
    notes: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The name of each place."""
        return (*(c.label for c in self.foreground), *([BACKGROUND] if self.has_background else []))

    def answer(self, maps: Tensor) -> tuple[AnyArray, AnyArray]:
        """The place of each pixel of `maps (c, h, w)`: among the foreground, and with the background.

        `(h, w)` int64 on the host. A tie of the background with a class goes to the class, of two classes to
        the earlier one.
        """
        count = len(self.foreground)
        top, best = maps[:count].max(dim=0)
        if not self.has_background:
            return best.cpu().numpy(), best.cpu().numpy()
        behind = maps[count] > top if self.below is None else top < self.below
        return best.cpu().numpy(), best.masked_fill(behind, count).cpu().numpy()


def class_list(
    setting: Setting,
    lines: Sequence[str] | None,
    *,
    templates: Sequence[str] | None = None,
    descriptions: Descriptions | None = None,
    background: str | float = "words",
    text_encoder: str | None = None,
) -> Classes:
    """Which classes count, in the order of the list, and their embeddings; see `measure_segment`."""
    plan = setting.store.plan
    if not plan.masks or not plan.classes:
        raise UsageError(
            "the store has no masks",
            where=setting.store.place,
            todo="encode a source with masks: segmentation:FOLDER or scenes:COUNT",
        )
    below = _threshold(background)
    own = next((name for name in plan.classes if name.casefold() == BACKGROUND), None)
    if own is None and below is not None:
        raise UsageError(
            "the masks have no class 'background'", where="background", found=below, allowed="words"
        )
    listed = parse_classes(plan.classes if lines is None else lines)
    unknown = [c.label for c in listed if c.label not in plan.classes]
    if unknown:
        raise UsageError(
            "not classes of the store's masks",
            found=", ".join(unknown[:10]),
            allowed=", ".join(plan.classes[:20]),
        )
    foreground = tuple(c for c in listed if c.label != own)
    if not foreground:
        raise UsageError("no class but the background", todo="list at least one class")
    words = None
    if own is not None and below is None:
        words = next((c for c in listed if c.label == own), ClassName(label=own, words=own))
    place = {c.label: k for k, c in enumerate(foreground)} | ({own: len(foreground)} if own else {})
    asked = class_prompts(
        setting.store,
        classes=[*foreground, *([words] if words else [])],
        templates=templates,
        descriptions=descriptions,
    )
    vectors, cut = class_vectors(speaker_of(setting, text_encoder), asked.prompts)
    told = f"{cut} of {asked.options['prompts']} prompts were cut at the tokenizer's limit"
    return Classes(
        foreground=foreground,
        has_background=own is not None,
        words=words,
        below=below,
        place_of=places([place.get(name) for name in plan.classes]),
        vectors=vectors,
        templates=asked.templates,
        options=asked.options,
        notes=(*asked.notes, *([told] if cut else [])),
    )


def _threshold(background: str | float) -> float | None:
    """The cosine below which a pixel is background; none: words say what it is."""
    if background == "words":
        return None
    try:
        below = float(background)
    except ValueError:
        below = np.nan
    if not -1 <= below <= 1:
        raise UsageError(
            "not a rule for the background", where="background", found=background, allowed="words, or -1 to 1"
        )
    return below
