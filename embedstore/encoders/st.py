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
from embedstore.encoders.device import (
    ComputeType,
    device_kind,
    exactly,
    frozen_forward,
    pick_device,
    pick_dtype,
)
from embedstore.encoders.lines import Line
from embedstore.encoders.probe import PROBE_TEXTS, summary
from embedstore.encoders.tokens import Tokens, length_limit, pad
from embedstore.errors import EncoderError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from embedstore.encoders.base import TextEncoder
    from embedstore.shapes import IntArray

ALLOWED_MODULES = ("Transformer", "Pooling", "Normalize", "Dense", "LayerNorm", "Dropout")


class SentenceTransformers:
    """The encoder kind `st`: texts only."""

    def lines(self) -> list[Line]:
        """Its lines of the table in the docs."""
        return [
            Line(
                spec="`st:` text",
                tokens="real tokens of its Transformer, prompt included",
                width="`hidden_size`",
                pooled="the whole pipeline: `cls`, `max`, `mean`, `mean_sqrt_len_tokens`, `weightedmean`, "
                "`lasttoken`, then its other modules",
                tested="`BertConfig`, Pooling, Dense, Normalize, prompts",
            )
        ]

    def text(
        self,
        name: str,
        *,
        device: str = "auto",
        max_length: int | None = None,
        dtype: str | None = None,
        revision: str | None = None,
        prompt: str | None = None,
        prompt_text: str | None = None,
    ) -> TextEncoder:
        """Load a sentence encoder by hub id (the library's own organisation may be left out) or folder.

        `prompt`: name of one of the checkpoint's prompts, empty for none; its default one if not given.
        `prompt_text`: a prompt itself, in place of a named one.
        """
        checkpoint = locate(name, revision)
        if not checkpoint.local and "/" not in checkpoint.model:
            checkpoint = locate(f"sentence-transformers/{name}", revision)
        return load(
            checkpoint,
            device=device,
            max_length=max_length,
            dtype=dtype,
            prompt=prompt,
            prompt_text=prompt_text,
        )


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
        self._prompt = _prompt_features(pipeline, tokens)
        self._card = self._make_card(checkpoint)

    @property
    def card(self) -> EncoderCard:
        """The identity of the features this encoder makes."""
        return self._card

    def limited(self, max_length: int) -> STTextEncoder:
        """The encoder that cuts at `max_length` tokens, with the same weights in memory."""
        twin = copy.copy(self)
        twin._tokens = self._tokens.limited(max_length)
        # The limit may cut the probe's texts.
        known = {"tokenizer": twin._tokens.card, "probe": summary(twin._probe())}
        twin._card = self._card.model_copy(update=known)
        return twin

    def prepare(self, texts: Sequence[str]) -> tuple[list[IntArray], list[bool]]:
        """Texts to token ids `(l,)` int64, cut at the card's `max_length`, and whether each text was cut."""
        return self._tokens.prepare(texts)

    def encode(self, ids: Sequence[IntArray]) -> TextBatch:
        """Prepared texts to tokens `(b, l, d)`, mask `(b, l)` and pooled `(b, w)`."""
        padded, mask = pad(ids, self._device)
        features: dict[str, Any] = {"input_ids": padded, "attention_mask": mask.long(), **self._prompt}
        with frozen_forward(self._device, self._dtype):
            first, *others = self.pipeline
            features = first(features)
            tokens = features["token_embeddings"]
            for module in others:
                features = module(features)
            return TextBatch(tokens=tokens, mask=mask, pooled=features["sentence_embedding"])

    def _probe(self) -> TextBatch:
        with exactly():
            return self.encode(self.prepare(PROBE_TEXTS)[0])

    def _make_card(self, checkpoint: Checkpoint) -> EncoderCard:
        probe = self._probe()
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
            pooling="+".join(_step(module, self._prompt) for module in list(self.pipeline)[1:]),
            probe=summary(probe),
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


def _prompt_features(pipeline: Any, tokens: Tokens) -> dict[str, int]:
    """What a pooling that leaves out the prompt must know: the prompt's tokens but a last special one."""
    if not tokens.card.prompt or all(getattr(module, "include_prompt", True) for module in pipeline):
        return {}
    (ids,), _ = tokens.prepare([""])
    ends = int(ids[-1]) in pipeline[0].tokenizer.all_special_ids
    return {"prompt_length": len(ids) - ends}


def _step(module: Any, prompt: Mapping[str, int]) -> str:
    """One module in the words of the card: what a pooling takes, or the name of what follows it."""
    kind = type(module).__name__
    if kind == "Pooling":
        modes = module.pooling_mode
        taken = str(modes) if isinstance(modes, str) else ",".join(modes)
        return taken + ("-after-prompt" if prompt and not module.include_prompt else "")
    if kind == "Dense":
        return f"dense-{type(module.activation_function).__name__.lower()}"
    return kind.lower()


def load(
    checkpoint: Checkpoint,
    *,
    device: str,
    max_length: int | None,
    dtype: str | None,
    prompt: str | None = None,
    prompt_text: str | None = None,
) -> STTextEncoder:
    """Load a pipeline of allowed modules; `EncoderError` where it has others."""
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
        prompt=_prompt(checkpoint, pipeline, prompt) if prompt_text is None else prompt_text,
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


def _prompt(checkpoint: Checkpoint, pipeline: Any, name: str | None) -> str:
    """The prompt of a name, as the library would take it; `UnknownNameError` with the names there are."""
    chosen = (pipeline.default_prompt_name or "") if name is None else name
    if not chosen:
        return ""
    if chosen not in pipeline.prompts:
        known = ", ".join(sorted(pipeline.prompts)) or "none"
        raise UnknownNameError(f"unknown prompt {chosen!r}", where=checkpoint.model, allowed=known)
    return str(pipeline.prompts[chosen])
