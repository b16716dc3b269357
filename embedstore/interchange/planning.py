"""The plan and the tables of a store that is made by an import: rows in the file's order."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedstore.documents import Plan
from embedstore.errors import SourceError
from embedstore.store import create_store
from embedstore.store.tables import IMAGES, TEXTS

if TYPE_CHECKING:
    from pathlib import Path

    from embedstore.interchange.ids import RowFacts
    from embedstore.interchange.opening import Opened

_HASHED_ROWS = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedImport:
    """A store to be: its plan and its two tables."""

    plan: Plan
    images: pa.Table
    texts: pa.Table

    def write(self, store: Path) -> bool:
        """Make the store; False where the same one was made a moment ago."""
        return create_store(store, self.plan, images=[self.images], texts=[self.texts])


def plan_imported(opened: Opened, *, language: str) -> PlannedImport:
    """Decide the tables; nothing is written.

    Samples become images, and their captions texts `ID#0`; texts without samples become texts alone, and need
    a column `caption` (`SourceError` otherwise).
    """
    facts = opened.facts
    if opened.samples:
        images, texts = _images(facts), _captions(facts, language)
    else:
        images, texts = IMAGES.empty_table(), _texts(facts, language, opened.name)
    plan = Plan(
        source={"kind": "imported", "format": opened.kind},
        source_sha256=_hash(images, texts),
        order="source",
        images=len(images),
        texts=len(texts),
        splits=_counts(images["split"]),
        languages=_counts(texts["language"]),
        roles=_counts(texts["role"]),
    )
    return PlannedImport(plan=plan, images=images, texts=texts)


def _images(facts: RowFacts) -> pa.Table:
    nothing = pa.nulls(len(facts), pa.string())
    columns = {name: facts.columns.get(name, nothing) for name in ("picture", "label", "split")}
    columns["picture"] = _relative(columns["picture"])
    sizes = pa.nulls(len(facts), pa.int64())
    return pa.table({"id": facts.ids, "nbytes": sizes, **columns}).select(IMAGES.names).cast(IMAGES)


def _relative(pictures: pa.Array) -> pa.Array:
    """Names of pictures as they are; absolute paths name one machine only, and are left out."""
    absolute = pc.match_substring_regex(pictures, r"^(/|[A-Za-z]:[\\/]|file:)")
    return pc.if_else(absolute, pa.scalar(None, pa.string()), pictures)


def _captions(facts: RowFacts, language: str) -> pa.Table:
    if "caption" not in facts.columns:
        return TEXTS.empty_table()
    known = pc.is_valid(facts.columns["caption"])
    kept = facts.keep(known)
    rows = pa.array(np.flatnonzero(known.to_numpy(zero_copy_only=False)), pa.int64())
    return _text_table(pc.binary_join_element_wise(kept.ids, "0", "#"), rows, kept, language)


def _texts(facts: RowFacts, language: str, where: str) -> pa.Table:
    caption = facts.columns.get("caption")
    if caption is None or caption.null_count:
        raise SourceError(
            "a new store of texts needs the texts themselves",
            where=where,
            found="no column 'caption'"
            if caption is None
            else f"{caption.null_count} rows without a caption",
            todo="give --ids TABLE with columns id and caption, or import into a store that has the texts",
        )
    return _text_table(facts.ids, pa.nulls(len(facts), pa.int64()), facts, language)


def _text_table(ids: Any, images: Any, facts: RowFacts, language: str) -> pa.Table:
    count = len(facts)
    spoken = facts.columns.get("language", pa.nulls(count, pa.string()))
    table = {
        "id": ids,
        "image": images,
        "text": facts.columns["caption"],
        "language": pc.fill_null(spoken, language),
        "role": pa.repeat(pa.scalar("caption"), count),
        "category": pa.nulls(count, pa.string()),
    }
    return pa.table(table).cast(TEXTS)


def _hash(*tables: pa.Table) -> str:
    """sha256 over every line of the tables as JSON, in row order."""
    digest = hashlib.sha256()
    encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
    for table in tables:
        for batch in table.to_batches(max_chunksize=_HASHED_ROWS):
            for line in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                digest.update(encode(line).encode() + b"\n")
    return digest.hexdigest()


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    found = Counter({v["values"]: v["counts"] for v in pc.value_counts(column).to_pylist()})
    return {str(name): count for name, count in sorted(found.items(), key=str) if name is not None}
