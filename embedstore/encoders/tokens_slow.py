"""Tokenizers of SentencePiece that have no fast form (SigLIP's): the same surface as `Tokens`, in Python."""

from __future__ import annotations

import copy
import hashlib
import json
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.documents import TokenizerCard
from embedstore.encoders.tokens import Tokens, checked_length, unicode_text
from embedstore.errors import EncoderError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedstore.shapes import IntArray


class SlowTokens:
    """A tokenizer of SentencePiece that cuts at a fixed length, called as the library's user would."""

    def __init__(
        self,
        tokenizer: Any,
        *,
        limit: int | None,
        max_length: int | None,
        where: str,
        padded_to: int | None = None,
    ) -> None:
        """The arguments are those of `Tokens`."""
        if getattr(tokenizer, "sp_model", None) is None:
            raise EncoderError("the tokenizer has no fast form", where=where, found=type(tokenizer).__name__)
        self._tokenizer, self._where, self._lock = tokenizer, where, threading.Lock()
        self._limits = int(tokenizer.num_special_tokens_to_add()) + 1, limit
        self.padding = int(tokenizer.pad_token_id or 0)
        self.card = TokenizerCard(
            class_name=type(tokenizer).__name__,
            sha256=_identity(tokenizer),
            max_length=checked_length(limit, max_length, least=self._limits[0], where=where),
            padded_to=padded_to,
        )

    def limited(self, max_length: int) -> SlowTokens:
        """The same tokenizer, cutting at another length."""
        least, limit = self._limits
        length = checked_length(limit, max_length, least=least, where=self._where)
        twin = copy.copy(self)
        twin.card = self.card.model_copy(update={"max_length": length})
        return twin

    def prepare(self, texts: Sequence[str]) -> tuple[list[IntArray], list[bool]]:
        """As `Tokens.prepare`: ids `(l,)` int64 of each text, and whether it was cut."""
        most = self.card.max_length
        with self._lock:
            whole = [self._ids(unicode_text(text)) for text in texts]
            cut = [len(ids) > most for ids in whole]
            ids = [
                self._ids(unicode_text(text), truncation=True, max_length=most) if was_cut else own
                for text, own, was_cut in zip(texts, whole, cut, strict=True)
            ]
        return [np.asarray(one, dtype=np.int64) for one in ids], cut

    def _ids(self, text: str, **options: Any) -> list[int]:
        ids: list[int] = self._tokenizer(text, verbose=False, **options)["input_ids"]
        return ids


def _identity(tokenizer: Any) -> str:
    """sha256 over the model of SentencePiece and what is done around it."""
    around = {
        "class": type(tokenizer).__name__,
        "lower": bool(getattr(tokenizer, "do_lower_case", False)),
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "added": {str(token): int(number) for token, number in tokenizer.get_added_vocab().items()},
        "side": str(tokenizer.truncation_side),
    }
    digest = hashlib.sha256(tokenizer.sp_model.serialized_model_proto())
    digest.update(json.dumps(around, sort_keys=True, separators=(",", ":")).encode())
    return digest.hexdigest()


def tokens_of(tokenizer: Any, **arguments: Any) -> Tokens | SlowTokens:
    """The tokens of a tokenizer of transformers, fast where it has that form."""
    kind = Tokens if getattr(tokenizer, "is_fast", False) else SlowTokens
    return kind(tokenizer, **arguments)
