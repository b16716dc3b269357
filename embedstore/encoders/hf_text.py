"""Text models of transformers; `hf_text_families` is the table of what is known.

Tokens of the last layer are the last hidden state after the final norm, real tokens with the special ones.
Pooled is what the library calls the text's embedding, and the mean over real tokens where it names none.
Tokens of another layer are as they leave its block, before any final norm.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from embedstore.documents import EncoderCard
from embedstore.encoders.base import TextBatch
from embedstore.encoders.cards import library_versions, weights_sha256
from embedstore.encoders.checkpoint import Checkpoint, loading
from embedstore.encoders.device import (
    ComputeType,
    device_kind,
    exactly,
    frozen_forward,
    pick_device,
    pick_dtype,
)
from embedstore.encoders.hf_model import choose_family, load_frozen, read_config
from embedstore.encoders.hf_text_families import FAMILIES
from embedstore.encoders.layers import LAST, Layers
from embedstore.encoders.probe import PROBE_TEXTS, summary
from embedstore.encoders.tokens import Tokens, length_limit, pad, positions
from embedstore.encoders.tokens_slow import SlowTokens, tokens_of
from embedstore.errors import EncoderError, MissingExtraError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedstore.encoders.hf_text_families import TextFamily
    from embedstore.shapes import IntArray


class HFTextEncoder:
    """A frozen text model of transformers behind the protocol `TextEncoder`."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        family: TextFamily,
        model: Any,
        tokens: Tokens | SlowTokens,
        *,
        layers: Sequence[int],
        pooling: str | None,
        device: torch.device,
        dtype: ComputeType,
    ) -> None:
        self._family, self._tokens, self._device, self._dtype = family, tokens, device, dtype
        self._pooling = _checked_pooling(pooling, family)
        self.model = model.to(device)
        self._layers = Layers(model, layers, where=checkpoint.model)
        self.cards = self._make_cards(checkpoint)

    @property
    def card(self) -> EncoderCard:
        """The identity of the first of the features that this encoder makes."""
        return self.cards[0]

    def limited(self, max_length: int) -> HFTextEncoder:
        """The encoder that cuts at `max_length` tokens, with the same weights in memory."""
        twin = copy.copy(self)
        twin._tokens = self._tokens.limited(max_length)
        # The limit may cut the probe's texts.
        twin.cards = tuple(
            card.model_copy(update={"tokenizer": twin._tokens.card, "probe": summary(batch)})
            for card, batch in zip(self.cards, twin._probes(), strict=True)
        )
        return twin

    def prepare(self, texts: Sequence[str]) -> tuple[list[IntArray], list[bool]]:
        """Texts to token ids `(l,)` int64, cut at the card's `max_length`, and whether each text was cut."""
        return self._tokens.prepare(texts)

    def encode(self, ids: Sequence[IntArray]) -> TextBatch:
        """Prepared texts to tokens `(b, l, d)`, mask `(b, l)` and pooled `(b, w)`."""
        return self.encode_all(ids)[0]

    def encode_all(self, ids: Sequence[IntArray]) -> tuple[TextBatch, ...]:
        """What `encode` gives, for each layer."""
        padded, mask = pad(ids, self._device)
        inputs = {"attention_mask": mask.long(), **self._family.inputs}
        if self._tokens.card.padded_to is not None:
            places = (len(ids), self._tokens.card.padded_to)
            whole = torch.full(places, self._tokens.padding, device=self._device)
            whole[:, : mask.shape[1]] = torch.where(mask, padded, self._tokens.padding)
            padded, inputs = whole, {}
        with frozen_forward(self._device, self._dtype):
            output, seen = self._layers.run(self.model, input_ids=padded, **inputs)
            return tuple(self._batch(number, output, seen, mask) for number in self._layers.numbers)

    def _batch(
        self, number: int, output: Any, seen: dict[int, torch.Tensor], mask: torch.Tensor
    ) -> TextBatch:
        """The feature of one layer."""
        hidden = output.last_hidden_state if number == LAST else seen[number]
        tokens = hidden[:, : mask.shape[1]]
        pooling = self._pooling_of(number)
        if pooling == "mean":
            pooled = _mean(tokens, mask)
        elif pooling == "cls":
            pooled = tokens[:, 0]
        elif pooling == "last":
            pooled = tokens[torch.arange(len(tokens), device=tokens.device), mask.sum(1) - 1]
        else:
            pooled = output.text_embeds if pooling == "text_embeds" else output.pooler_output
        return TextBatch(tokens=tokens, mask=mask, pooled=pooled)

    def _pooling_of(self, number: int) -> str:
        """What the pooled embedding of a layer is: the library knows one of the last layer alone."""
        return self._pooling or (self._family.pooled if number == LAST else self._family.inner)

    def _make_cards(self, checkpoint: Checkpoint) -> tuple[EncoderCard, ...]:
        weights = weights_sha256(self.model.state_dict().values())
        return tuple(
            EncoderCard(
                modality="text",
                library="transformers",
                architecture=type(self.model).__name__,
                model=checkpoint.model,
                revision=checkpoint.revision,
                weights_sha256=weights,
                layer=number,
                final_norm=number == LAST,
                width=probe.tokens.shape[2],
                pooled_width=probe.pooled.shape[1],
                pooling=self._pooling_of(number),
                probe=summary(probe),
                tokenizer=self._tokens.card,
                compute_dtype=self._dtype,
                device_kind=device_kind(self._device),
                versions=library_versions("torch", "transformers", "tokenizers"),
            )
            for number, probe in zip(self._layers.numbers, self._probes(), strict=True)
        )

    def _probes(self) -> tuple[TextBatch, ...]:
        with exactly():
            return self.encode_all(self.prepare(PROBE_TEXTS)[0])


def _mean(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weights = mask.unsqueeze(-1).float()
    return (tokens.float() * weights).sum(1) / weights.sum(1)


def load(
    checkpoint: Checkpoint,
    *,
    device: str,
    max_length: int | None,
    dtype: str | None,
    layers: Sequence[int] = (LAST,),
    pooling: str | None = None,
) -> HFTextEncoder:
    """Load a text model of a known family with its tokenizer; `EncoderError` where it is none."""
    where = pick_device(device)
    config = read_config(checkpoint)
    family = choose_family(checkpoint, config, FAMILIES, "a text model")
    tokenizer = _load_tokenizer(checkpoint)
    model = load_frozen(checkpoint, family.model, options=family.options)
    limit = length_limit(tokenizer, model)
    tokens = tokens_of(
        tokenizer,
        limit=limit,
        max_length=_usual_length(family, limit) if max_length is None else max_length,
        padded_to=positions(model) if family.padded else None,
        where=checkpoint.model,
    )
    return HFTextEncoder(
        checkpoint,
        family,
        model,
        tokens,
        layers=layers,
        pooling=pooling,
        device=where,
        dtype=pick_dtype(dtype, where),
    )


def _load_tokenizer(checkpoint: Checkpoint) -> Any:
    from transformers import AutoTokenizer

    try:
        with loading(checkpoint, "tokenizer"):
            return AutoTokenizer.from_pretrained(
                checkpoint.source, trust_remote_code=False, **checkpoint.arguments
            )
    except EncoderError as bad:
        if isinstance(bad.__cause__, ImportError):
            raise MissingExtraError(
                "the tokenizer needs a package that is not installed",
                where=checkpoint.model,
                todo="pip install 'embedstore[sentencepiece]'",
            ) from bad
        raise


def _usual_length(family: TextFamily, limit: int | None) -> int | None:
    return family.length if family.length is None or limit is None else min(family.length, limit)


def _checked_pooling(pooling: str | None, family: TextFamily) -> str | None:
    if pooling is not None and pooling not in family.choices:
        raise UsageError(
            "the model has no such pooled embedding",
            where="pooling",
            found=pooling,
            allowed=", ".join(family.choices),
            todo=f"leave it out for the library's own: {family.pooled}",
        )
    return pooling
