"""Stores of pooled embeddings that a test chooses, made by the real writer: planted duplicates and leaks."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal

import numpy as np

from embedstore.documents import EncoderCard, Plan, QuarantinedRow
from embedstore.store import FeatureWriter, Store, create_store, open_store, plan_feature
from embedstore.store.tables import IMAGES, TEXTS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from embedstore.documents import PolicyName
    from embedstore.shapes import FloatArray


def write_vector_store(
    path: Path,
    vectors: FloatArray,
    *,
    table: Literal["images", "texts"] = "images",
    ids: str = "s",
    splits: Sequence[str | None] | None = None,
    nbytes: Sequence[int | None] | None = None,
    texts: Sequence[str] | None = None,
    thumbnails: Sequence[bytes] | None = None,
    unreadable: Sequence[int] = (),
    encoder: str = "encoder",
    policy: PolicyName = "float32",
    shard_rows: int | None = None,
) -> Store:
    """A store whose only feature, "vectors", holds `vectors (n, e)` as they are, and no tokens.

    Rows have the ids `ids` + number. `encoder` names the encoder: stores of one name have equal cards. Texts
    belong to no image. `unreadable` rows are quarantined.
    """
    count, width = vectors.shape
    images, words = table == "images", table == "texts"
    named = [f"{ids}{row:06d}" for row in range(count)]
    split = list(splits or [None] * count)
    plan = Plan(
        source={"kind": "vectors", "ids": ids},
        source_sha256="0" * 64,
        order="source",
        seed=0,
        images=count if images else 0,
        texts=count if words else 0,
        classes=(),
        splits={s: split.count(s) for s in dict.fromkeys(split) if s is not None} if images else {},
        languages={"en": count} if words else {},
        roles={"caption": count} if words else {},
    )
    pictures = [
        {"id": each, "picture": None, "nbytes": None if nbytes is None else nbytes[row], "split": split[row]}
        for row, each in enumerate(named)
        if images
    ]
    lines = [
        {"id": each, "text": each if texts is None else texts[row], "language": "en", "role": "caption"}
        for row, each in enumerate(named)
        if words
    ]
    create_store(
        path,
        plan,
        images=[IMAGES.empty_table().from_pylist(pictures, schema=IMAGES)],
        texts=[TEXTS.empty_table().from_pylist(lines, schema=TEXTS)],
    )
    card = EncoderCard(
        modality="image" if images else "text",
        library="imported",
        architecture="unknown",
        model=encoder,
        weights_sha256=hashlib.sha256(encoder.encode()).hexdigest(),
        layer=None,
        final_norm=None,
        width=width,
        pooled_width=width,
        pooling="unknown",
        compute_dtype="unknown",
        device_kind="unknown",
        versions={},
    )
    header = plan_feature(
        name="vectors",
        plan=plan,
        card=card,
        policy=policy,
        shard_rows=shard_rows,
        thumbnails=0 if thumbnails is None else 16,
    )
    writer = FeatureWriter.open(path, header)
    for unit in writer.missing_units():
        rows = header.unit_rows(unit)
        writer.write_unit(
            unit,
            {"pooled": vectors[rows.start : rows.stop].astype(np.float32)},
            quarantined=[
                QuarantinedRow(row=row, id=named[row], reason="truncated")
                for row in sorted(unreadable)
                if row in rows
            ],
            thumbnails=None if thumbnails is None else thumbnails[rows.start : rows.stop],
        )
    writer.finish()
    return open_store(path)
