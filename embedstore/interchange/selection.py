"""Which rows an export takes, and what stands beside their embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from embedstore.errors import UsageError
from embedstore.store.selection import Bools, equal, split_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from embedstore.shapes import IntArray
    from embedstore.store import ChosenRows, Feature, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Rows of a store as an export writes them: a line a picture, or a text where no feature is of pictures.

    `images` and `texts` are the rows of the two tables that each line reads; `columns` the words beside it:
    `id`, then those of `caption`, `label`, `split`, `picture`, `text_id` and `language` that the store has.
    """

    images: IntArray | None
    texts: IntArray | None
    columns: pa.Table
    skipped: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.columns)

    def rows_of(self, feature: Feature) -> IntArray:
        """The rows that this feature is read at, one a line."""
        rows = self.images if feature.table == "images" else self.texts
        if rows is None:
            raise UsageError("no rows of this table were selected", where=feature.name)
        return rows


def select(
    store: Store,
    features: Sequence[Feature],
    *,
    split: str | None,
    language: str,
    mean: bool = False,
    rows: ChosenRows | None = None,
) -> Selection:
    """Rows of a split (none: all), and of `rows` where they are given, that every feature can give.

    Pictures bring their first caption in `language`; where a text feature is exported too, pictures without
    one are left out and counted, as are quarantined rows, and for a `mean` over tokens texts that have none.
    `UsageError` for an unknown split or no rows left.
    """
    pictures = any(f.table == "images" for f in features)
    if pictures:
        found = _pictures(store, features, split, language, mean=mean, chosen=rows)
    else:
        found = _texts(store, features, split, mean=mean, chosen=rows)
    if not len(found):
        raise UsageError(
            "no rows are left to export", found=", ".join(f"{v} {k}" for k, v in found.skipped.items())
        )
    return found


def _pictures(
    store: Store,
    features: Sequence[Feature],
    split: str | None,
    language: str,
    *,
    mean: bool,
    chosen: ChosenRows | None,
) -> Selection:
    images = store.images(["id", "picture", "label", "split"])
    first = first_captions(store, language, among=chosen.texts(store) if chosen else None)
    keep = _of_split(store, split)
    if chosen is not None:
        keep[np.setdiff1d(np.arange(len(keep)), chosen.images(store), assume_unique=True)] = False
    skipped = {}
    for feature in features:
        if feature.table == "images":
            good = feature.status() == 0
            skipped[f"quarantined in {feature.name}"] = int((keep & ~good).sum())
            keep &= good
    for feature in features:
        if feature.table == "texts":
            skipped["without a caption"] = int((keep & (first < 0)).sum())
            keep &= first >= 0
            for reason, usable in _usable(feature, mean=mean):
                good = np.ones(len(keep), dtype=bool)
                good[first >= 0] = usable[first[first >= 0]]
                skipped[reason] = int((keep & ~good).sum())
                keep &= good
    rows = np.flatnonzero(keep)
    columns = images.take(pa.array(rows))
    captions = first[rows]
    if store.plan.texts:
        texts = store.texts(["id", "text"]).take(pa.array(captions, mask=captions < 0))
        columns = columns.append_column("caption", texts["text"])
        if any(f.table == "texts" for f in features):
            columns = columns.append_column("text_id", texts["id"])
    return Selection(images=rows, texts=captions, columns=_known(columns), skipped=_counted(skipped))


def first_captions(store: Store, language: str, *, among: Bools | None = None) -> IntArray:
    """The first text of every picture `(images,)` with role caption in this language, -1 where none is.

    `among (texts,)`: which texts may be taken; none: any.
    """
    table = store.texts(["image", "language", "role"])
    owners = table["image"].fill_null(-1).to_numpy().astype(np.int64)
    usable = equal(table["language"], language) & equal(table["role"], "caption") & (owners >= 0)
    rows = np.flatnonzero(usable if among is None else usable & among)
    first = np.full(store.plan.images, -1, np.int64)
    # Backwards, so that the first text of a picture is the last one written.
    first[owners[rows][::-1]] = rows[::-1]
    return first


def _texts(
    store: Store,
    features: Sequence[Feature],
    split: str | None,
    *,
    mean: bool,
    chosen: ChosenRows | None,
) -> Selection:
    texts = store.texts(["id", "image", "text", "language"])
    keep = np.ones(len(texts), dtype=bool)
    if split is not None:
        owners = texts["image"].fill_null(-1).to_numpy().astype(np.int64)
        keep = (owners >= 0) & _of_split(store, split)[owners]
    if chosen is not None:
        keep &= _texts_of(store, chosen)
    skipped = {}
    for feature in features:
        for reason, good in _usable(feature, mean=mean):
            skipped[reason] = int((keep & ~good).sum())
            keep &= good
    rows = np.flatnonzero(keep)
    taken = texts.take(pa.array(rows))
    columns = pa.table({"id": taken["id"], "caption": taken["text"], "language": taken["language"]})
    return Selection(images=None, texts=rows, columns=columns, skipped=_counted(skipped))


def _texts_of(store: Store, chosen: ChosenRows) -> Bools:
    """Which texts are chosen: these, or those of the chosen images."""
    found = chosen.texts(store)
    if found is not None:
        return found
    return np.isin(store.texts(["image"])["image"].fill_null(-1).to_numpy(), chosen.rows)


def _of_split(store: Store, split: str | None) -> Bools:
    """Which pictures are of a split."""
    found = np.zeros(store.plan.images, dtype=bool)
    found[split_rows(store, split)] = True
    return found


def _usable(feature: Feature, *, mean: bool) -> Iterator[tuple[str, Bools]]:
    """Why texts of a feature may be left out, and which are not."""
    yield f"quarantined in {feature.name}", feature.status() == 0
    if mean and "lengths" in feature.arrays:
        yield f"without a token in {feature.name}", feature.lengths() > 0


def _known(columns: pa.Table) -> pa.Table:
    """Columns that say something in one row at least; ids always."""
    return columns.select(
        [n for n in columns.column_names if n == "id" or columns[n].null_count < len(columns)]
    )


def _counted(skipped: Mapping[str, int]) -> dict[str, int]:
    return {reason: count for reason, count in skipped.items() if count}
