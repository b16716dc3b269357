"""What encoders are timed on: the user's source, the store's thumbnails and captions, or painted pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from embedstore.encode.plan import plan_source
from embedstore.errors import UsageError
from embedstore.sources import open_source

if TYPE_CHECKING:
    from pathlib import Path

    from embedstore.encode.plan import PlannedSource
    from embedstore.store import Store

_PAINTED = 384
_COARSE = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Planned samples, and in words what they are."""

    planned: PlannedSource
    words: str


def source_samples(source: str, *, limit: int, seed: int) -> Samples:
    """The first of a source in its seeded order."""
    planned = plan_source(open_source(source), seed=seed, limit=limit)
    if not planned.plan.images:
        raise UsageError("the source has no pictures", where=source)
    return Samples(planned=planned, words=f"{planned.plan.images} pictures of the source")


def picture_samples(store: Store, folder: Path, *, count: int, seed: int) -> Samples:
    """Thumbnails of random rows as JPEG files in a new folder; painted pictures where the store has none."""
    folder.mkdir()
    rows = np.random.default_rng(seed).permutation(store.plan.images)[:count]
    small = [jpeg for jpeg in store.thumbnails(rows) if jpeg is not None]
    words = f"{count} pictures, thumbnails of the store"
    if not small:
        words = f"{count} painted pictures, as the store has no thumbnails"
    for number in range(count):
        place = folder / f"{number:06d}.jpg"
        if small:
            # Of a small store they come again, as other files.
            place.write_bytes(small[number % len(small)])
        else:
            _paint(place, seed=seed, number=number)
    return Samples(planned=plan_source(open_source(f"folder:{folder}")), words=words)


def text_samples(store: Store, file: Path, *, count: int, seed: int) -> Samples:
    """Random texts of the store, of any role and language, in a new file."""
    column = store.texts(["text"])["text"]
    rows = np.random.default_rng(seed).permutation(len(column))[:count]
    lines = [
        json.dumps({"id": f"t{number}", "caption": words})
        for number, words in enumerate(column.take(rows).to_pylist())
    ]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Samples(
        planned=plan_source(open_source(f"table:{file}")), words=f"{len(lines)} texts of the store"
    )


def _paint(place: Path, *, seed: int, number: int) -> None:
    """Smooth colours with some grain: about as many bytes as a photograph."""
    rng = np.random.default_rng([seed, number])
    coarse = Image.fromarray(rng.integers(0, 256, (_COARSE, _COARSE, 3), np.uint8))
    smooth = np.asarray(coarse.resize((_PAINTED, _PAINTED), Image.Resampling.BICUBIC), np.float32)
    grain = rng.normal(0, 8, smooth.shape)
    Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(place, quality=90)
