"""The text architectures of transformers that are known: one line of the table each."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

# The pooled embedding in the words of the card. `mean`, `cls` and `last`: of the real tokens of the layer;
# `eot`: of CLIP's end-of-text token; `text_embeds`: that, projected into the space that images and texts
# share; `last-place`: SigLIP's projection of its last place, padding or not.
Pooling: TypeAlias = Literal["mean", "cls", "last", "eot", "text_embeds", "last-place"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFamily:
    """How one architecture is loaded and read.

    `pooled`: the library's own embedding of a text, or `mean` where it names none. `inner`: what it is of a
    layer that is not the last. `choices`: the poolings that may be asked for. `padded`: whether texts are
    padded to all places of the model and seen without a mask, as in training. `length`: tokens of a text
    where none are asked for and the model would take more.
    """

    model: str
    pooled: Pooling = "mean"
    inner: Pooling = "mean"
    choices: tuple[Pooling, ...] = ("mean", "cls")
    options: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    padded: bool = False
    length: int | None = None


_NO_POOLER = {"add_pooling_layer": False}
_BERT = TextFamily(model="BertModel", options=_NO_POOLER)
_CLIP = TextFamily(
    model="CLIPTextModelWithProjection", pooled="text_embeds", inner="last", choices=("mean", "last")
)
_SIGLIP = TextFamily(model="SiglipTextModel", pooled="last-place", choices=("mean",), padded=True)
# A decoder would take thousands of tokens; a caption never has them, and a store reserves places for them.
_DECODER = TextFamily(model="", choices=("mean", "last"), inputs={"use_cache": False}, length=512)

# Model type, or the class that a checkpoint was saved from where that decides, to the family.
FAMILIES: Mapping[str, TextFamily] = {
    "bert": _BERT,
    "camembert": replace(_BERT, model="CamembertModel"),
    "clip": _CLIP,
    "clip_text_model": _CLIP,
    "CLIPTextModel": replace(_CLIP, model="CLIPTextModel", pooled="eot"),
    "deberta-v2": TextFamily(model="DebertaV2Model"),
    "distilbert": TextFamily(model="DistilBertModel"),
    "electra": TextFamily(model="ElectraModel"),
    "gemma": replace(_DECODER, model="GemmaModel"),
    "gemma2": replace(_DECODER, model="Gemma2Model"),
    "gemma3_text": replace(_DECODER, model="Gemma3TextModel"),
    "gpt2": replace(_DECODER, model="GPT2Model"),
    "gpt_neox": replace(_DECODER, model="GPTNeoXModel"),
    "llama": replace(_DECODER, model="LlamaModel"),
    "mistral": replace(_DECODER, model="MistralModel"),
    "modernbert": TextFamily(model="ModernBertModel"),
    "mpnet": replace(_BERT, model="MPNetModel"),
    "olmo2": replace(_DECODER, model="Olmo2Model"),
    "opt": replace(_DECODER, model="OPTModel"),
    "phi": replace(_DECODER, model="PhiModel"),
    "phi3": replace(_DECODER, model="Phi3Model"),
    "qwen2": replace(_DECODER, model="Qwen2Model"),
    "qwen3": replace(_DECODER, model="Qwen3Model"),
    "roberta": replace(_BERT, model="RobertaModel"),
    "siglip": _SIGLIP,
    "siglip_text_model": _SIGLIP,
    "siglip2": replace(_SIGLIP, model="Siglip2TextModel"),
    "siglip2_text_model": replace(_SIGLIP, model="Siglip2TextModel"),
    "xlm-roberta": replace(_BERT, model="XLMRobertaModel"),
    "xlm-roberta-xl": replace(_BERT, model="XLMRobertaXLModel"),
}
