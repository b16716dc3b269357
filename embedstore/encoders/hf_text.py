"""Text models of transformers: one line of the table a family.

Tokens are the last hidden state after the final norm, real tokens with the special ones. Pooled is the mean
over real tokens where the library names no sentence embedding, and CLIP's projected EOT where it does.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from embedstore.documents import EncoderCard
from embedstore.encoders.base import TextBatch
from embedstore.encoders.cards import library_versions, weights_sha256
from embedstore.encoders.checkpoint import Checkpoint, loading
from embedstore.encoders.device import ComputeType, device_kind, frozen_forward, pick_device, pick_dtype
from embedstore.encoders.hf_model import choose_family, load_frozen, read_config
from embedstore.encoders.layers import LAST, Layers
from embedstore.encoders.tokens import Tokens, length_limit, pad

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from embedstore.shapes import IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFamily:
    """How one architecture is loaded, and which vector is its pooled embedding."""

    model: str
    pooled: Literal["mean", "text_embeds", "eot"] = "mean"
    options: Mapping[str, Any] = field(default_factory=dict)


_NO_POOLER = {"add_pooling_layer": False}
_CLIP = TextFamily(model="CLIPTextModelWithProjection", pooled="text_embeds")

FAMILIES: Mapping[str, TextFamily] = {
    "bert": TextFamily(model="BertModel", options=_NO_POOLER),
    "roberta": TextFamily(model="RobertaModel", options=_NO_POOLER),
    "xlm-roberta": TextFamily(model="XLMRobertaModel", options=_NO_POOLER),
    "mpnet": TextFamily(model="MPNetModel", options=_NO_POOLER),
    "distilbert": TextFamily(model="DistilBertModel"),
    "clip": _CLIP,
    "clip_text_model": _CLIP,
    "CLIPTextModel": TextFamily(model="CLIPTextModel", pooled="eot"),
}


class HFTextEncoder:
    """A frozen text model of transformers behind the protocol `TextEncoder`."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        family: TextFamily,
        model: Any,
        tokens: Tokens,
        *,
        layers: Sequence[int],
        device: torch.device,
        dtype: ComputeType,
    ) -> None:
        self._family, self._tokens, self._device, self._dtype = family, tokens, device, dtype
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
        twin.cards = tuple(card.model_copy(update={"tokenizer": twin._tokens.card}) for card in self.cards)
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
        with frozen_forward(self._device, self._dtype):
            output, seen = self._layers.run(self.model, input_ids=padded, attention_mask=mask.long())
            return tuple(
                self._last(output, mask) if number == LAST else self._inner(seen[number], mask)
                for number in self._layers.numbers
            )

    def _last(self, output: Any, mask: torch.Tensor) -> TextBatch:
        tokens = output.last_hidden_state
        if self._family.pooled == "mean":
            pooled = _mean(tokens, mask)
        else:
            pooled = output.text_embeds if self._family.pooled == "text_embeds" else output.pooler_output
        return TextBatch(tokens=tokens, mask=mask, pooled=pooled)

    def _inner(self, tokens: torch.Tensor, mask: torch.Tensor) -> TextBatch:
        return TextBatch(tokens=tokens, mask=mask, pooled=_mean(tokens, mask))

    def _make_cards(self, checkpoint: Checkpoint) -> tuple[EncoderCard, ...]:
        weights = weights_sha256(self.model.state_dict().values())
        probes = self.encode_all(self.prepare([""])[0])
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
                pooling=self._family.pooled if number == LAST else "mean",
                tokenizer=self._tokens.card,
                compute_dtype=self._dtype,
                device_kind=device_kind(self._device),
                versions=library_versions("torch", "transformers", "tokenizers"),
            )
            for number, probe in zip(self._layers.numbers, probes, strict=True)
        )


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
) -> HFTextEncoder:
    """Load a text model of a known family with its tokenizer; `EncoderError` where it is none."""
    from transformers import AutoTokenizer

    where = pick_device(device)
    config = read_config(checkpoint)
    family = choose_family(checkpoint, config, FAMILIES, "a text model")
    with loading(checkpoint, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(
            checkpoint.source, trust_remote_code=False, **checkpoint.arguments
        )
    model = load_frozen(checkpoint, family.model, options=family.options)
    tokens = Tokens(
        tokenizer, limit=length_limit(tokenizer, model), max_length=max_length, where=checkpoint.model
    )
    return HFTextEncoder(
        checkpoint, family, model, tokens, layers=layers, device=where, dtype=pick_dtype(dtype, where)
    )
