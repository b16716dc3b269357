"""A text encoder without a model, for tests of what encodes prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from embedstore.encoders.base import TextBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedstore.documents import EncoderCard
    from embedstore.shapes import Float32Array, IntArray


class WordEncoder:
    """Tokens that depend on each word alone: numbers to compare with, not meanings.

    `seen` keeps the texts.
    """

    def __init__(self, card: EncoderCard) -> None:
        self.card = card
        self.seen: list[str] = []

    def prepare(self, texts: Sequence[str]) -> tuple[list[IntArray], list[bool]]:
        """One id a word, cut at the card's limit."""
        self.seen += texts
        limit = self.card.tokenizer.max_length if self.card.tokenizer else 0
        ids = [np.array([sum(map(ord, word)) for word in text.split()], dtype=np.int64) for text in texts]
        return [i[:limit] for i in ids], [len(i) > limit for i in ids]

    def tokens(self, ids: IntArray) -> Float32Array:
        """Tokens `(l, d)` of one text."""
        rows = [np.random.default_rng(i).normal(size=self.card.width) for i in ids.tolist()]
        return np.stack(rows).astype(np.float32)

    def encode(self, ids: Sequence[IntArray]) -> TextBatch:
        """Padded with NaN, so that whoever reads padding shows."""
        longest = max(map(len, ids))
        tokens = torch.full((len(ids), longest, self.card.width), torch.nan)
        mask = torch.zeros(len(ids), longest, dtype=torch.bool)
        for row, one in enumerate(ids):
            tokens[row, : len(one)] = torch.from_numpy(self.tokens(one))
            mask[row, : len(one)] = True
        return TextBatch(tokens=tokens, mask=mask, pooled=tokens[:, 0])
