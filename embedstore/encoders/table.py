"""The kinds of encoders, and loading one from its spec or for a card.

A spec is `KIND:NAME[?option=value&...]`: `hf:facebook/dinov2-large`, `st:../my-encoder`, `demo:minilm`.
Options: `revision` (hub ids), `image_size` and `backend` (images), `max_length` (texts), `dtype`.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import parse_qsl

from embedstore.documents import FREE_FIELDS, differing_fields
from embedstore.encoders import memory
from embedstore.errors import EncoderError, UsageError
from embedstore.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embedstore.documents import EncoderCard
    from embedstore.encoders.base import ImageEncoder, TextEncoder

Modality: TypeAlias = Literal["image", "text"]

# A kind is a class with one or both of the methods `image(name, *, ...)` and `text(name, *, ...)`.
KINDS = Registry(
    "kind of encoder",
    {
        "demo": "embedstore.encoders.demo:Demo",
        "hf": "embedstore.encoders.hf:HuggingFace",
        "open_clip": "embedstore.encoders.open_clip:OpenCLIP",
        "python": "embedstore.encoders.python:Python",
        "st": "embedstore.encoders.st:SentenceTransformers",
        "timm": "embedstore.encoders.timm:Timm",
    },
    group="embedstore.encoders",
)

_GRAMMAR = "KIND:NAME, for example hf:facebook/dinov2-large, st:all-MiniLM-L6-v2, hf:../my-folder"
_PUBLIC_KINDS = {
    "transformers": "hf",
    "sentence-transformers": "st",
    "open_clip": "open_clip",
    "timm": "timm",
}
_WEIGHTS = re.compile(r"\.(safetensors|bin|pt|pth|npz|npy)$")
_WHOLE_NUMBERS = ("image_size", "max_length")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """A parsed spec: kind, name (hub id, folder or short name) and options."""

    kind: str
    name: str
    options: Mapping[str, str | int] = field(default_factory=dict)


def split_spec(spec: str) -> EncoderSpec:
    """Parse `KIND:NAME[?option=value&...]`; `UsageError` with the grammar otherwise."""
    kind, colon, rest = spec.partition(":")
    name, mark, query = rest.partition("?")
    if not colon or not kind or not name or "/" in kind:
        raise UsageError("an encoder needs a kind and a name", found=spec, allowed=_GRAMMAR)
    options: dict[str, str | int] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key in _WHOLE_NUMBERS:
            if not re.fullmatch(r"[0-9]{1,9}", value):
                raise UsageError(f"{key} must be a whole number", where=spec, found=value)
            options[key] = int(value)
        else:
            options[key] = value
    if mark and not options:
        raise UsageError("an option is written name=value", where=spec, found=query)
    return EncoderSpec(kind=kind, name=name, options=options)


def default_name(spec: str) -> str:
    """The feature name of a spec without one: the last part of its id, in the letters a name may have."""
    parsed = split_spec(spec)
    last = re.split(r"[/\\]", parsed.name.rstrip("/\\"))[-1]
    if parsed.kind == "python":
        last = last.rpartition(":")[2]
    elif parsed.kind == "open_clip" and ":" not in parsed.name and not Path(parsed.name).is_dir():
        # A tag alone, or the name of a file, says little; all but the last suffix of a file stays.
        last = f"{parsed.name.partition('/')[0]}-{_WEIGHTS.sub('', last)}"
    if last.strip(".") == "":
        last = Path(parsed.name).resolve().name
    clean = re.sub(r"[^A-Za-z0-9_.-]+", "-", last).strip(".-")
    return clean[:200] or parsed.kind


def load_image_encoder(
    spec: str,
    *,
    device: str = "auto",
    image_size: int | tuple[int, int] | None = None,
    dtype: str | None = None,
    threads: int | None = None,
) -> ImageEncoder:
    """Load a frozen image encoder. An option inside the spec wins over the argument of the same name.

    `threads` sets torch's threads for the whole process. Raises `UsageError` for a spec that cannot be meant
    and `EncoderError` for a model that cannot be loaded.
    """
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    encoder: ImageEncoder = _load(spec, "image", {"device": device, "image_size": image_size, "dtype": dtype})
    return encoder


def load_text_encoder(
    spec: str, *, device: str = "auto", max_length: int | None = None, dtype: str | None = None
) -> TextEncoder:
    """Load a frozen text encoder. An option inside the spec wins over the argument of the same name."""
    encoder: TextEncoder = _load(spec, "text", {"device": device, "max_length": max_length, "dtype": dtype})
    return encoder


def _load(
    spec: str, modality: Modality, arguments: Mapping[str, Any], settings: Mapping[str, Any] | None = None
) -> Any:
    """Load by the kind of `spec`; `arguments` are passed on always, `settings` where the kind knows them."""
    parsed = split_spec(spec)
    loader = getattr(KINDS.load(parsed.kind)(), modality, None)
    if loader is None:
        raise UsageError(f"the kind {parsed.kind!r} has no {modality} encoders", found=spec)
    known = [name for name in inspect.signature(loader).parameters if name not in ("name", "device")]
    for option in parsed.options:
        if option not in known:
            raise UsageError(f"unknown option {option!r}", where=spec, allowed=", ".join(known) or "none")
    kept = {name: value for name, value in (settings or {}).items() if name in known}
    return loader(parsed.name, **{**arguments, **kept, **parsed.options})


def encoder_for_card(card: EncoderCard, spec: str | None = None, *, device: str = "auto") -> Any:
    """The encoder that a card describes: from `spec`, from the memory, or by the model's public name.

    Its weights, preprocessing and reading must be the card's; library versions, device, precision and the
    name that the model went by may differ. `EncoderError` lists what differs, or names the option to give.
    A given `spec` that fits is remembered.
    """
    if card.library == "imported":
        raise EncoderError(
            f"an imported feature has no {card.modality} encoder that could be run again",
            where=card.model,
            todo="encode the data with the model itself, and fit a head on that feature",
        )
    option = f"--{card.modality}-encoder SPEC"
    chosen = spec or memory.recall(card) or _public_spec(card)
    if chosen is None:
        raise EncoderError(
            f"nothing is known about where the {card.modality} encoder is",
            where=card.model,
            todo=f"give it with {option}, for example {option.partition(' ')[0]} hf:PATH",
        )
    try:
        encoder = _load(chosen, card.modality, {"device": device}, _settings(card))
    except EncoderError as bad:
        if spec is not None:
            raise
        raise EncoderError(
            f"the {card.modality} encoder is no longer where it was",
            where=card.model,
            found=f"{chosen}: {bad.problem}",
            todo=f"give it with {option}",
        ) from bad
    _check_same(card, encoder.card, chosen, option)
    if spec is not None:
        memory.remember(card, spec)
    return encoder


def _public_spec(card: EncoderCard) -> str | None:
    from embedstore.encoders.demo import MODELS

    if card.model in MODELS:
        return f"demo:{MODELS[card.model]}"
    kind = _PUBLIC_KINDS.get(card.library)
    # Without a slash it is the name of a folder, but for timm; a file has a suffix that no tag has.
    if kind is None or ("/" not in card.model and kind != "timm") or _WEIGHTS.search(card.model):
        return None
    return f"{kind}:{card.model}" + (f"?revision={card.revision}" if card.revision else "")


def _settings(card: EncoderCard) -> dict[str, Any]:
    """What was or may have been overridden when the card was made, to be set again."""
    if card.tokenizer is not None:
        return {"max_length": card.tokenizer.max_length}
    if card.processor is not None:
        backend = card.processor.backend
        own = {"backend": backend} if backend in ("pil", "torchvision") else {}
        return {"image_size": card.processor.size, **own}
    return {}


def _check_same(wanted: EncoderCard, found: EncoderCard, spec: str, option: str) -> None:
    free = {name: getattr(wanted, name) for name in FREE_FIELDS}
    fields = differing_fields(wanted, found.model_copy(update=free))
    if fields:
        lines = "; ".join(f"{name}: stored {a!r}, now {b!r}" for name, (a, b) in fields.items())
        raise EncoderError(
            "this is not the encoder that made the feature",
            where=spec,
            found=lines,
            todo=f"give the right one with {option}",
        )
