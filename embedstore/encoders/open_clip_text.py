"""The text towers of open_clip: tokens after the final norm, and the projected embedding."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from embedstore.documents import EncoderCard, TokenizerCard
from embedstore.encoders.base import TextBatch
from embedstore.encoders.cards import library_versions, weights_sha256, with_activation
from embedstore.encoders.checkpoint import Checkpoint, loading
from embedstore.encoders.device import (
    ComputeType,
    device_kind,
    exactly,
    frozen_forward,
    pick_device,
    pick_dtype,
)
from embedstore.encoders.open_clip import library, load_model, quiet
from embedstore.encoders.probe import PROBE_TEXTS, summary
from embedstore.encoders.tokens import unicode_text
from embedstore.encoders.tokens_slow import tokens_of
from embedstore.errors import EncoderError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor

    from embedstore.encoders.open_clip import Place
    from embedstore.shapes import IntArray

# texts to ids without padding, and whether each text was cut
_Cut: TypeAlias = "Callable[[Sequence[str]], tuple[list[IntArray], list[bool]]]"

_PROBES = ("a dog", "two red cubes stand left of a small green ball", "")


class CLIPTokens:
    """A tokenizer of open_clip: texts to ids without padding, and the ids as it pads them. Thread-safe."""

    def __init__(self, tokenizer: Any, *, length: int, max_length: int | None, where: str) -> None:
        """`length`: what the model takes; `max_length`: what was asked for, at most that."""
        self._tokenizer, self.width, self._where = tokenizer, length, where
        limit = length if max_length is None else max_length
        if not 3 <= limit <= length:
            raise UsageError(
                "bad maximal length of a text", where=where, found=limit, allowed=f"3 to {length} tokens"
            )
        self._cut = self._cutter(limit)
        padded = tokenizer(list(_PROBES), context_length=length).numpy()
        self.pad = int(padded[-1][-1])
        ids, _ = self._cutter(length)(_PROBES)
        if getattr(tokenizer, "reduction_fn", None) is not None or not np.array_equal(
            self.padded(ids), padded
        ):
            raise EncoderError("the tokenizer cuts or pads in a way that is not known", where=where)
        self.card = TokenizerCard(
            class_name=type(tokenizer).__name__, sha256=_sha256(tokenizer, where=where), max_length=limit
        )

    def prepare(self, texts: Sequence[str]) -> tuple[list[IntArray], list[bool]]:
        """Ids `(l,)` int64 of each text, start and end included, and whether it was cut."""
        return self._cut([unicode_text(text) for text in texts])

    def padded(self, ids: Sequence[IntArray]) -> IntArray:
        """Ids `(n, width)` int64, as the tokenizer itself pads them."""
        made = np.full((len(ids), self.width), self.pad, np.int64)
        for row, one in enumerate(ids):
            made[row, : len(one)] = one
        return made

    def _cutter(self, limit: int) -> _Cut:
        tokenizer = self._tokenizer
        if hasattr(tokenizer, "bpe_ranks"):
            return lambda texts: _cut_simple(tokenizer, texts, limit)
        tokens = tokens_of(tokenizer.tokenizer, limit=limit, max_length=None, where=self._where)
        separator = tokenizer.tokenizer.sep_token_id if getattr(tokenizer, "strip_sep_token", False) else None

        def cut(texts: Sequence[str]) -> tuple[list[IntArray], list[bool]]:
            ids, flags = tokens.prepare([_cleaned(tokenizer, text) for text in texts])
            return [
                np.where(one == separator, 0, one) if separator is not None else one for one in ids
            ], flags

        return cut


def _cut_simple(tokenizer: Any, texts: Sequence[str], limit: int) -> tuple[list[IntArray], list[bool]]:
    ids, cut = [], []
    for text in texts:
        whole = [tokenizer.sot_token_id, *tokenizer.encode(text), tokenizer.eot_token_id]
        cut.append(len(whole) > limit)
        ids.append(np.asarray([*whole[: limit - 1], whole[-1]] if cut[-1] else whole, np.int64))
    return ids, cut


def _cleaned(tokenizer: Any, text: str) -> str:
    from open_clip.tokenizer import basic_clean, canonicalize_text

    # SigLipTokenizer has its cleaning written out, HFTokenizer as a function.
    found: str = (
        tokenizer.clean_fn(text) if hasattr(tokenizer, "clean_fn") else canonicalize_text(basic_clean(text))
    )
    return found


def _sha256(tokenizer: Any, *, where: str) -> str:
    """Over vocabulary, merges and cleaning: all that decides the ids but where they are cut."""
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is None:
        ranks = list(tokenizer.bpe_ranks)
        parts: list[Any] = [sorted(tokenizer.encoder.items()), ranks, tokenizer.pat.pattern]
    else:
        own = tokens_of(inner, limit=None, max_length=64, where=where).card.sha256
        parts = [own, getattr(tokenizer, "strip_sep_token", False)]
    clean = getattr(getattr(tokenizer, "clean_fn", None), "__name__", "")
    return hashlib.sha256(json.dumps([clean, *parts], separators=(",", ":")).encode()).hexdigest()


class OpenCLIPTextEncoder:
    """A frozen text tower of open_clip behind the protocol `TextEncoder`."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: Any,
        tokens: CLIPTokens,
        *,
        device: torch.device,
        dtype: ComputeType,
    ) -> None:
        self.model, self._tokens, self._device, self._dtype = model.to(device), tokens, device, dtype
        self._run, self._short = _runner(model), _may_be_short(model)
        self._card = self._make_card(checkpoint)

    @property
    def card(self) -> EncoderCard:
        """The identity of the features this encoder makes."""
        return self._card

    def prepare(self, texts: Sequence[str]) -> tuple[list[IntArray], list[bool]]:
        """Texts to token ids `(l,)` int64, cut at the card's `max_length`, and whether each text was cut."""
        return self._tokens.prepare(texts)

    def encode(self, ids: Sequence[IntArray]) -> TextBatch:
        """Prepared texts to tokens `(b, l, d)`, mask `(b, l)` and pooled `(b, w)`."""
        lengths = np.asarray([len(one) for one in ids])
        longest = int(lengths.max())
        padded = torch.from_numpy(self._tokens.padded(ids)).to(self._device)
        mask = torch.from_numpy(np.arange(longest)[None, :] < lengths[:, None]).to(self._device)
        with frozen_forward(self._device, self._dtype):
            tokens, pooled = self._run(padded[:, :longest] if self._short else padded)
        return TextBatch(tokens=tokens[:, :longest], mask=mask, pooled=pooled)

    def _make_card(self, checkpoint: Checkpoint) -> EncoderCard:
        with exactly():
            probe = self.encode(self.prepare(PROBE_TEXTS)[0])
        tower = getattr(self.model, "text", self.model)
        name = "TextTransformer" if tower is self.model else type(tower).__name__
        return EncoderCard(
            modality="text",
            library="open_clip",
            architecture=with_activation(name, tower),
            model=checkpoint.model,
            revision=checkpoint.revision,
            weights_sha256=weights_sha256(_used(self.model)),
            final_norm=True,
            width=probe.tokens.shape[2],
            pooled_width=probe.pooled.shape[1],
            pooling="text_features",
            probe=summary(probe),
            tokenizer=self._tokens.card.model_copy(
                update={"padded_to": None if self._short else self._tokens.width}
            ),
            compute_dtype=self._dtype,
            device_kind=device_kind(self._device),
            versions=library_versions("torch", "transformers", "tokenizers")
            | {"open_clip": version("open_clip_torch")},
        )


def _runner(model: Any) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Ids `(b, l)` to tokens `(b, l, d)` after the final norm, and the projected embedding `(b, w)`."""
    tower = getattr(model, "text", model)

    def with_transformers(ids: Tensor) -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []
        hook = tower.transformer.register_forward_hook(lambda *a: seen.append(a[2].last_hidden_state))
        try:
            pooled = tower(ids)
        finally:
            hook.remove()
        return seen[0], pooled

    def own(ids: Tensor) -> tuple[Tensor, Tensor]:
        if _may_be_short(model):
            return _causal(tower, ids)
        found = model.forward_intermediates(
            text=ids, text_indices=1, normalize=False, normalize_intermediates=True
        )
        return found["text_intermediates"][0], found["text_features"]

    return with_transformers if hasattr(tower, "config") else own


def _may_be_short(model: Any) -> bool:
    """Whether padding decides nothing, so that it need not be computed: no token sees one after itself."""
    tower = getattr(model, "text", model)
    if hasattr(tower, "config"):
        return True
    pool = getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))
    causal = getattr(tower, "attn_mask", None) is not None
    return causal and getattr(tower, "cls_emb", None) is None and pool in ("argmax", "eos", "first")


def _causal(tower: Any, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The library's own text forward, on fewer places than it was trained with; it takes none but all."""
    from open_clip.transformer import text_global_pool

    length = ids.shape[1]
    hidden = tower.token_embedding(ids) + tower.positional_embedding[:length]
    hidden = tower.ln_final(tower.transformer(hidden, attn_mask=tower.attn_mask[:length, :length]))
    pool = getattr(tower, "text_pool_type", getattr(tower, "pool_type", "argmax"))
    end = getattr(tower, "text_eos_id", getattr(tower, "eos_id", None))
    pooled = text_global_pool(hidden, ids, pool, eos_token_id=end)
    projection = tower.text_projection
    if projection is not None:
        pooled = projection(pooled) if isinstance(projection, torch.nn.Linear) else pooled @ projection
    return hidden, pooled


def _used(model: Any) -> Iterable[Tensor]:
    """The tensors of the text tower; a model without one of its own holds them beside the image tower's."""
    if hasattr(model, "text"):
        return list(model.text.state_dict().values())
    others = ("visual.", "logit_")
    return [tensor for name, tensor in model.state_dict().items() if not name.startswith(others)]


def load(place: Place, *, device: str, max_length: int | None, dtype: str | None) -> OpenCLIPTextEncoder:
    """Load a text tower with its tokenizer."""
    where = pick_device(device)
    model = load_model(place)
    model.visual = torch.nn.Identity()
    with quiet(), loading(place.checkpoint, "tokenizer"):
        tokenizer = library().get_tokenizer(place.name)
    length = tokenizer.context_length
    tokens = CLIPTokens(tokenizer, length=length, max_length=max_length, where=place.checkpoint.model)
    return OpenCLIPTextEncoder(place.checkpoint, model, tokens, device=where, dtype=pick_dtype(dtype, where))
