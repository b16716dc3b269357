"""Embeddings that lie in a store, where a head would make them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import HeadError
from embedstore.stream.embed import refuse_quarantined

if TYPE_CHECKING:
    import torch

    from embedstore.shapes import Float32Array, IntArray
    from embedstore.store import Feature


_AT_ONCE = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEmbeddings:
    """The stored pooled embeddings of two features as unit vectors; `sha256` names the head that made them.

    Of an encoder with two towers, or imported, there is no head: none.
    """

    sha256: str | None
    device: torch.device

    @classmethod
    def of(cls, image: Feature, text: Feature, *, device: torch.device) -> StoredEmbeddings:
        """`HeadError` where the two are not of one joint space: of other heads, or of unequal width."""
        heads = [feature.card.head for feature in (image, text)]
        names = [None if head is None else head.sha256 for head in heads]
        if names[0] != names[1]:
            raise HeadError(
                "the two features are not of one head",
                where=f"{image.name} and {text.name}",
                found=" and ".join("no head" if name is None else name[:16] for name in names),
                todo="embedstore apply HEAD STORE --as NAME makes both",
            )
        widths = [feature.card.pooled_width for feature in (image, text)]
        if widths[0] != widths[1]:
            raise HeadError(
                "the two features are not of one joint space",
                where=f"{image.name} and {text.name}",
                found=f"widths {widths[0]} and {widths[1]}",
                todo="give a head with --head, or features that one head or one two-tower model made",
            )
        return cls(sha256=names[0], device=device)

    def embed_images(self, feature: Feature, rows: IntArray) -> Float32Array:
        """Unit vectors `(n, e)` of image rows, in the order given; quarantined rows are refused."""
        return stored_vectors(feature, rows)

    def embed_texts(self, feature: Feature, rows: IntArray) -> Float32Array:
        """Unit vectors `(m, e)` of text rows, in the order given; quarantined rows are refused."""
        return stored_vectors(feature, rows)


def stored_vectors(feature: Feature, rows: IntArray) -> Float32Array:
    """The pooled embeddings of rows as unit vectors `(n, e)` float32; a vector of zeros stays so.

    Memory beside them: that of some thousand rows.
    """
    refuse_quarantined(feature, rows)
    unit = np.empty((len(rows), feature.card.pooled_width), np.float32)
    for at in range(0, len(rows), _AT_ONCE):
        found = feature.decoded("pooled", rows[at : at + _AT_ONCE])
        lengths = np.sqrt(np.einsum("ij,ij->i", found, found, dtype=np.float64))
        scales = np.where(lengths > 0, lengths, 1.0).astype(np.float32)
        np.divide(found, scales[:, None], out=unit[at : at + len(found)])
    return unit
