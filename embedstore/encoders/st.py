"""`st:` sentence-transformers: tokens of its transformer, pooled by its whole pipeline.

Only module types of the library itself that we know are loaded; code inside a checkpoint is never run.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from embedstore.documents import EncoderCard
from embedstore.encoders.base import TextBatch
from embedstore.encoders.cards import library_versions, weights_sha256
from embedstore.encoders.checkpoint import Checkpoint, loading, locate
from embedstore.encoders.device import ComputeType, device_kind, frozen_forward, pick_device, pick_dtype
from embedstore.encoders.tokens import Tokens, length_limit, pad
from embedstore.errors import EncoderError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from embedstore.encoders.base import TextEncoder
    from embedstore.shapes import IntArray

ALLOWED_MODULES = ("Transformer", "Pooling", "Normalize", "Dense")


class SentenceTransformers:
    """The encoder kind `st`: texts only."""

    def text(
        self,
        name: str,
        *,
        device: str = "auto",
        max_length: int | None = None,
        dtype: str | None = None,
        revision: str | None = None,
    ) -> TextEncoder:
        """Load a sentence encoder by hub id (the library's own organisation may be left out) or folder."""
        checkpoint = locate(name, revision)
        if not checkpoint.local and "/" not in checkpoint.model:
            checkpoint = locate(f"sentence-transformers/{name}", revision)
        return load(checkpoint, device=device, max_length=max_length, dtype=dtype)


class STTextEncoder:
    """A frozen sentence-transformers pipeline behind the protocol `TextEncoder`."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        pipeline: Any,
        tokens: Tokens,
        *,
        device: torch.device,
        dtype: ComputeType,
    ) -> None:
        self._tokens, self._device, self._dtype = tokens, device, dtype
        self.pipeline = pipeline
        self._card = self._make_card(checkpoint)

    @property
    def card(self) -> EncoderCard:
        """The identity of the features this encoder makes."""
        return self._card

    def limited(self, max_length: int) -> STTextEncoder:
        """The encoder that cuts at `max_length` tokens, with the same weights in memory."""
        twin = copy.copy(self)
        twin._tokens = self._tokens.limited(max_length)
        twin._card = self._card.model_copy(update={"tokenizer": twin._tokens.card})
        return twin

    def prepare(self, texts: Sequence[str]) -> tuple[list[IntArray], list[bool]]:
        """Texts to token ids `(l,)` int64, cut at the card's `max_length`, and whether each text was cut."""
        return self._tokens.prepare(texts)

    def encode(self, ids: Sequence[IntArray]) -> TextBatch:
        """Prepared texts to tokens `(b, l, d)`, mask `(b, l)` and pooled `(b, w)`."""
        padded, mask = pad(ids, self._device)
        features: dict[str, Any] = {"input_ids": padded, "attention_mask": mask.long()}
        with frozen_forward(self._device, self._dtype):
            first, *others = self.pipeline
            features = first(features)
            tokens = features["token_embeddings"]
            for module in others:
                features = module(features)
            return TextBatch(tokens=tokens, mask=mask, pooled=features["sentence_embedding"])

    def _make_card(self, checkpoint: Checkpoint) -> EncoderCard:
        probe = self.encode(self.prepare([""])[0])
        return EncoderCard(
            modality="text",
            library="sentence-transformers",
            architecture=type(self.pipeline[0].auto_model).__name__,
            model=checkpoint.model,
            revision=checkpoint.revision,
            weights_sha256=weights_sha256(_used_tensors(self.pipeline)),
            final_norm=True,
            width=probe.tokens.shape[2],
            pooled_width=probe.pooled.shape[1],
            pooling="+".join(_step(module) for module in list(self.pipeline)[1:]),
            tokenizer=self._tokens.card,
            compute_dtype=self._dtype,
            device_kind=device_kind(self._device),
            versions=library_versions("torch", "transformers", "tokenizers", "sentence-transformers"),
        )


def _used_tensors(pipeline: Any) -> Iterator[torch.Tensor]:
    """All tensors but those of the transformer's own pooler, which is not run."""
    for place, module in enumerate(pipeline):
        inner = module.auto_model if place == 0 else module
        for name, tensor in inner.state_dict().items():
            if not (place == 0 and name.startswith("pooler.")):
                yield tensor


def _step(module: Any) -> str:
    """One module in the words of the card: what a pooling takes, or the name of what follows it."""
    kind = type(module).__name__
    if kind == "Pooling":
        modes = module.pooling_mode
        return str(modes) if isinstance(modes, str) else ",".join(modes)
    if kind == "Dense":
        return f"dense-{type(module.activation_function).__name__.lower()}"
    return kind.lower()


def load(checkpoint: Checkpoint, *, device: str, max_length: int | None, dtype: str | None) -> STTextEncoder:
    """Load a pipeline of allowed modules; `EncoderError` where it has others or applies a prompt."""
    from sentence_transformers import SentenceTransformer

    where = pick_device(device)
    with loading(checkpoint, "list of modules"):
        listed = checkpoint.read_json("modules.json") or []
        _check_types(checkpoint, [str(entry["type"]) for entry in listed])
        _check_activations(checkpoint, listed)
    with loading(checkpoint, "sentence encoder"):
        pipeline = SentenceTransformer(
            checkpoint.source,
            device=str(where),
            trust_remote_code=False,
            model_kwargs={"dtype": torch.float32},
            **checkpoint.arguments,
        )
    _check_pipeline(checkpoint, pipeline)
    pipeline.eval().requires_grad_(requires_grad=False)
    transformer = pipeline[0]
    tokens = Tokens(
        transformer.tokenizer,
        limit=length_limit(transformer.tokenizer, transformer.auto_model),
        max_length=max_length,
        where=checkpoint.model,
    )
    return STTextEncoder(checkpoint, pipeline, tokens, device=where, dtype=pick_dtype(dtype, where))


def _check_types(checkpoint: Checkpoint, types: Sequence[str]) -> None:
    """Refuse before anything is imported: `modules.json` names the classes to load."""
    for name in types:
        if not name.startswith("sentence_transformers.") or name.rpartition(".")[2] not in ALLOWED_MODULES:
            raise EncoderError(
                "the pipeline has a module that is not on the allow-list",
                where=checkpoint.model,
                found=name,
                allowed=", ".join(ALLOWED_MODULES),
            )


def _check_activations(checkpoint: Checkpoint, listed: Sequence[dict[str, Any]]) -> None:
    """A Dense module's configuration names a class, too: only activations of torch are let in."""
    for entry in listed:
        if entry["type"].rpartition(".")[2] == "Dense":
            config = checkpoint.read_json(f"{entry['path']}/config.json") or {}
            name = str(config.get("activation_function", "torch.nn.Identity"))
            if not name.startswith("torch.nn."):
                raise EncoderError(
                    "a Dense module names an activation that is not on the allow-list",
                    where=checkpoint.model,
                    found=name,
                    allowed="torch.nn.*",
                )


def _check_pipeline(checkpoint: Checkpoint, pipeline: Any) -> None:
    modules = list(pipeline)
    _check_types(checkpoint, [f"{type(m).__module__}.{type(m).__name__}" for m in modules])
    kinds = [type(module).__name__ for module in modules]
    if kinds[0] != "Transformer" or "Pooling" not in kinds:
        raise EncoderError(
            "the pipeline must begin with a Transformer and hold a Pooling",
            where=checkpoint.model,
            found=", ".join(kinds),
        )
    prompt = pipeline.prompts.get(pipeline.default_prompt_name or "", "")
    if prompt:
        raise EncoderError(
            "the checkpoint puts a prompt before every text, which is not supported",
            where=checkpoint.model,
            found=repr(prompt),
        )
