"""Texts to token ids with a fast tokenizer, and ids to a padded batch."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedstore.documents import TokenizerCard
from embedstore.errors import EncoderError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedstore.shapes import IntArray


class Tokens:
    """A tokenizer that cuts at a fixed length. It owns a copy, so nothing else changes its state."""

    def __init__(
        self,
        tokenizer: Any,
        *,
        limit: int | None,
        max_length: int | None,
        where: str,
        prompt: str = "",
        padded_to: int | None = None,
    ) -> None:
        """`limit`: what model and tokenizer allow; `max_length`: what was asked for, at most that.

        `prompt`: text that is put before every text. `padded_to`: places that the model always sees, filled
        with the tokenizer's padding.
        """
        from tokenizers import Tokenizer

        if not getattr(tokenizer, "is_fast", False):
            raise EncoderError("the tokenizer has no fast form", where=where, found=type(tokenizer).__name__)
        serialised = json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
        side = str(tokenizer.truncation_side)
        least = int(tokenizer.num_special_tokens_to_add()) + 1
        length = checked_length(limit, max_length, least=least, where=where)
        specials = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, 0)
        self._nothing = next(int(one) for one in specials if one is not None)
        self.padding = int(tokenizer.pad_token_id or 0)
        self._limits, self._side, self._where = (least, limit), side, where
        self._tokenizer = Tokenizer.from_str(json.dumps(serialised))
        self._tokenizer.enable_truncation(length, direction=side)
        canonical = json.dumps([serialised, side], sort_keys=True, separators=(",", ":"))
        self.card = TokenizerCard(
            class_name=type(tokenizer).__name__,
            sha256=hashlib.sha256(canonical.encode()).hexdigest(),
            max_length=length,
            prompt=prompt,
            padded_to=padded_to,
        )

    def limited(self, max_length: int) -> Tokens:
        """The same tokenizer, cutting at another length."""
        from tokenizers import Tokenizer

        least, limit = self._limits
        length = checked_length(limit, max_length, least=least, where=self._where)
        twin = copy.copy(self)
        twin._tokenizer = Tokenizer.from_str(self._tokenizer.to_str())
        twin._tokenizer.enable_truncation(length, direction=self._side)
        twin.card = self.card.model_copy(update={"max_length": length})
        return twin

    def prepare(self, texts: Sequence[str]) -> tuple[list[IntArray], list[bool]]:
        """Token ids `(l,)` int64 of each text, special tokens included, and whether it was cut.

        Any string is accepted: half of a surrogate pair, which no encoding can hold, counts as U+FFFD, and
        where nothing is left of a text (decoders mark no beginning) it is one special token.
        """
        encoded = self._tokenizer.encode_batch([self.card.prompt + unicode_text(text) for text in texts])
        ids = [np.asarray(e.ids or [self._nothing], dtype=np.int64) for e in encoded]
        return ids, [bool(e.overflowing) for e in encoded]


def checked_length(limit: int | None, asked: int | None, *, least: int, where: str) -> int:
    """The length that was asked for, or else the limit; `UsageError` where it cannot be had."""
    if limit is None and asked is None:
        raise EncoderError(
            "neither the tokenizer nor the model says how long a text may be",
            where=where,
            todo="say it: add ?max_length=512 to the encoder's name",
        )
    length = limit if asked is None else asked
    if length is None or length < least or (limit is not None and length > limit):
        most = "any" if limit is None else limit
        raise UsageError(
            "bad maximal length of a text", where=where, found=length, allowed=f"{least} to {most} tokens"
        )
    return length


def unicode_text(text: str) -> str:
    """A text that every encoding can hold: half of a surrogate pair becomes U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def length_limit(tokenizer: Any, model: Any) -> int | None:
    """The longest text that tokenizer and position embeddings both take, special tokens included."""
    limits = [tokenizer.model_max_length, positions(model)]
    # transformers writes 1e30 where a tokenizer states no length
    known = [int(limit) for limit in limits if limit is not None and limit < 1e9]
    return min(known, default=None)


def positions(model: Any) -> int | None:
    """How many tokens a model has learnt positions for; none where positions are computed.

    RoBERTa and its kin number positions from `padding_idx + 1`, so that many places are lost.
    """
    for path, module in model.named_modules():
        learnt = path.rpartition(".")[2] in ("position_embeddings", "position_embedding")
        if learnt and isinstance(module, torch.nn.Embedding):
            lost = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - lost
    return getattr(model.config, "max_position_embeddings", None)


def pad(ids: Sequence[IntArray], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Input ids `(b, l)` int64 and mask `(b, l)` bool, real tokens first.

    Padding is masked and follows every real token, so one id serves all models; it is 0 since older CLIP
    checkpoints find their EOT as the highest id of a row.
    """
    lengths = np.asarray([len(row) for row in ids])
    mask = np.arange(lengths.max())[None, :] < lengths[:, None]
    padded = np.zeros(mask.shape, dtype=np.int64)
    padded[mask] = np.concatenate(ids)
    return torch.from_numpy(padded).to(device), torch.from_numpy(mask).to(device)
