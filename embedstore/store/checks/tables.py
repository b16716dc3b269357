"""Whether the tables of a store agree with its plan and with each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from embedstore.errors import CorruptStoreError
from embedstore.store import layout, tables
from embedstore.store.checks.report import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from embedstore.store.reader import Store


# Ids as Python strings take several times their bytes in the table: so many rows at once.
_SLICE_ROWS = 1 << 16


def check_tables(store: Store) -> Iterator[Finding]:
    """Every disagreement between plan, images, texts and masks."""
    try:
        images = store.images()
        texts = store.texts()
        yield from _counts(store, images, texts)
        yield from _ids(images, texts)
        yield from _captions(images, texts)
        yield from _masks(store)
    except CorruptStoreError as bad:
        yield _finding(str(bad.where), f"{bad.problem}: {bad.found or ''}")


def _finding(where: str, problem: str) -> Finding:
    return Finding(kind="corrupt", where=where, problem=problem)


def _tally(column: pa.ChunkedArray[pa.StringScalar]) -> dict[str, int]:
    return {v["values"]: v["counts"] for v in pc.value_counts(column).to_pylist() if v["values"] is not None}


def _counts(store: Store, images: pa.Table, texts: pa.Table) -> Iterator[Finding]:
    plan = store.plan
    facts = {
        "images": (len(images), plan.images),
        "texts": (len(texts), plan.texts),
        "splits": (_tally(images["split"]), plan.splits),
        "languages": (_tally(texts["language"]), plan.languages),
        "roles": (_tally(texts["role"]), plan.roles),
    }
    for name, (found, said) in facts.items():
        if found != said:
            where = f"{layout.TABLES}/{'images' if name in ('images', 'splits') else 'texts'}"
            yield _finding(where, f"{name}: the plan says {said}, the table holds {found}")


def _ids(images: pa.Table, texts: pa.Table) -> Iterator[Finding]:
    for name, table in (("images", images), ("texts", texts)):
        distinct = pc.count_distinct(table["id"]).as_py()
        if distinct != len(table):
            yield _finding(f"{layout.TABLES}/{name}", f"{len(table) - distinct} ids come more than once")


def _captions(images: pa.Table, texts: pa.Table) -> Iterator[Finding]:
    """Every text names an image that exists, has its id in front, and stands with its siblings."""
    where = f"{layout.TABLES}/texts"
    rows = texts["image"].fill_null(-1).to_numpy()
    known = rows[rows >= 0]
    if (rows < -1).any() or (known >= len(images)).any():
        yield _finding(where, "a text names an image row that is not there")
        return
    starts = np.flatnonzero(np.diff(rows, prepend=-2)) if rows.size else rows
    if (np.diff(known) < 0).any() or (rows[starts] >= 0).sum() != len(np.unique(known)):
        yield _finding(where, "captions of one image do not stand together in image order")
    for first in range(0, len(texts), _SLICE_ROWS):
        some = texts.slice(first, _SLICE_ROWS)
        owners = images["id"].take(some["image"]).to_pylist()
        for number, (text, owner) in enumerate(zip(some["id"].to_pylist(), owners, strict=True), first):
            if owner is not None and not text.startswith(f"{owner}#"):
                yield _finding(where, f"row {number}: the id {text!r} is not of its image {owner!r}")
                return


def _masks(store: Store) -> Iterator[Finding]:
    where = f"{layout.TABLES}/masks"
    table = tables.read_table(store.path, "masks")
    rows = table["image"].to_numpy()
    if bool(len(table)) != store.plan.masks:
        yield _finding(where, f"the plan says masks: {store.plan.masks}, the table holds {len(table)}")
    if len(rows) and ((np.diff(rows) <= 0).any() or rows[0] < 0 or rows[-1] >= store.plan.images):
        yield _finding(where, "rows are not ascending image rows")
