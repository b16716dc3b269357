"""The kinds of encoders, and loading one from its spec or for a card.

A spec is `KIND:NAME[?option=value&...]`: `hf:facebook/dinov2-large`, `st:../my-encoder`, `demo:minilm`.
Options: `revision` (hub ids), `image_size`, `backend` and `draft` (images), `max_length` (texts), `dtype`,
`layer`.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from embedstore.documents import differing_fields
from embedstore.encoders import memory
from embedstore.encoders.base import Limited, cards_of
from embedstore.encoders.draft import DraftedImages, draft_edge
from embedstore.encoders.spec import WEIGHTS, EncoderSpec, split_spec
from embedstore.errors import EncoderError, UsageError
from embedstore.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
_PUBLIC_KINDS = {
    "transformers": "hf",
    "sentence-transformers": "st",
    "open_clip": "open_clip",
    "timm": "timm",
}
# What may differ between the cards of two layers of one model: a stage of a ConvNeXt has its own grid.
_OF_A_LAYER = {"layer", "final_norm", "width", "pooled_width", "pooling", "grid"}
# As in embedstore.encoders.layers, which needs torch.
_LAST = -1
# Pixels of a picture that a model is shown; a whole photograph of 25 megapixels is less.
_MOST_PIXELS = 1 << 25
_CHOSEN_POOLINGS = ("cls", "mean", "last")


def load_image_encoder(
    spec: str,
    *,
    device: str = "auto",
    image_size: int | tuple[int, int] | None = None,
    dtype: str | None = None,
    threads: int | None = None,
) -> ImageEncoder:
    """Load a frozen image encoder of one feature. An option inside the spec wins over the argument.

    `threads` sets torch's threads for the whole process. Raises `UsageError` for a spec that cannot be meant
    and `EncoderError` for a model that cannot be loaded.
    """
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    return load_image_pass(_of_one_feature(spec), device=device, image_size=image_size, dtype=dtype)


def load_text_encoder(
    spec: str, *, device: str = "auto", max_length: int | None = None, dtype: str | None = None
) -> TextEncoder:
    """Load a frozen text encoder of one feature. An option inside the spec wins over the argument."""
    (encoder,) = load_text_passes(_of_one_feature(spec), device=device, max_length=max_length, dtype=dtype)
    return encoder


def _of_one_feature(spec: str) -> str:
    lists = split_spec(spec).lists
    if lists:
        raise UsageError(
            "one feature is wanted here, and this spec stands for several",
            where=spec,
            found="; ".join(f"{name}={','.join(map(str, found))}" for name, found in lists.items()),
            todo="give one value of each option",
        )
    return spec


def load_image_pass(
    spec: str,
    *,
    device: str = "auto",
    image_size: int | tuple[int, int] | None = None,
    dtype: str | None = None,
) -> ImageEncoder:
    """Load an encoder that makes every feature of a spec in one pass: see `cards_of` and `encode_all`."""
    settings = {"device": device, "image_size": image_size, "dtype": dtype}
    encoder: ImageEncoder = _load(split_spec(spec), "image", settings)
    return encoder


def load_text_passes(
    spec: str, *, device: str = "auto", max_length: int | None = None, dtype: str | None = None
) -> tuple[TextEncoder, ...]:
    """Load an encoder for each limit `max_length` of a spec; each makes the features of all layers in a pass.

    A text that is cut elsewhere is another text to the model, so each limit is a pass of its own. They share
    the weights in memory where the kind of encoder can (`Limited`).
    """
    parsed = split_spec(spec)
    arguments = {"device": device, "dtype": dtype}
    limits = parsed.lists.get("max_length")
    if limits is None:
        return (_load(parsed, "text", {**arguments, "max_length": max_length}),)
    rest = parsed.without("max_length")
    first = _load(rest, "text", {**arguments, "max_length": limits[0]})
    if isinstance(first, Limited):
        return (first, *(first.limited(limit) for limit in limits[1:]))
    return (first, *(_load(rest, "text", {**arguments, "max_length": limit}) for limit in limits[1:]))


def _load(
    parsed: EncoderSpec,
    modality: Modality,
    arguments: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
) -> Any:
    """Load by the kind of a spec; `arguments` are passed on always, `settings` where the kind knows them."""
    draft = 0
    if modality == "image":
        draft = int(parsed.options.get("draft", (settings or {}).get("draft", 0)))
        parsed = parsed.without("draft")
    loader = getattr(KINDS.load(parsed.kind)(), modality, None)
    if loader is None:
        raise UsageError(f"the kind {parsed.kind!r} has no {modality} encoders", found=str(parsed))
    parameters = inspect.signature(loader).parameters.values()
    known = [p.name for p in parameters if p.name not in ("name", "device") and p.kind is p.KEYWORD_ONLY]
    # An encoder of one's own has options of its own.
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for option in parsed.options:
        if option not in known and not anything:
            raise UsageError(
                f"unknown option {option!r}", where=str(parsed), allowed=", ".join(known) or "none"
            )
    kept = {name: value for name, value in (settings or {}).items() if name in known}
    chosen = {**arguments, **kept, **parsed.options}
    _refuse_size(chosen.get("image_size"), str(parsed))
    encoder = loader(parsed.name, **chosen)
    return DraftedImages(encoder, draft) if draft else encoder


def _refuse_size(size: int | tuple[int, int] | None, where: str) -> None:
    """Before anything is loaded: loading runs the model once, on a picture of that size."""
    if size is None:
        return
    height, width = size if isinstance(size, tuple) else (size, size)
    if min(height, width) < 1 or height * width > _MOST_PIXELS:
        raise UsageError(
            "no such image size",
            where=where,
            found=f"{height}x{width}" if isinstance(size, tuple) else size,
            allowed=f"1 pixel or more a side, {_MOST_PIXELS} together",
        )


def encoder_for_card(card: EncoderCard, spec: str | None = None, *, device: str = "auto") -> Any:
    """The encoder that a card describes: from `spec`, from the memory, or by the model's public name.

    Its weights, preprocessing and reading must be the card's; library versions, device, precision and the
    name that the model went by may differ. `EncoderError` lists what differs, or names the option to give.
    A given `spec` that fits is remembered.
    """
    return encoder_for_cards((card,), spec, device=device)


def encoder_for_cards(cards: Sequence[EncoderCard], spec: str | None = None, *, device: str = "auto") -> Any:
    """The encoder that makes the features of several cards in one pass: of different layers of one model.

    `cards_of` the encoder are in the order of `cards`; else as `encoder_for_card`.
    """
    card = cards[0]
    if card.library == "imported":
        raise EncoderError(
            f"an imported feature has no {card.modality} encoder that could be run again",
            where=card.model,
            todo="encode the data with the model itself, and fit a head on that feature",
        )
    if card.head is not None:
        raise EncoderError(
            "joint embeddings are made by a head, not by an encoder alone",
            where=card.model,
            todo="encode with the head: embedstore.load(HEAD)",
        )
    option = f"--{card.modality}-encoder SPEC"
    plain = list({each.plain.fingerprint: each.plain for each in cards}.values())
    chosen = spec or memory.recall(card) or _public_spec(card)
    if chosen is None:
        raise EncoderError(
            f"nothing is known about where the {card.modality} encoder is",
            where=card.model,
            todo=f"give it with {option}, for example {option.partition(' ')[0]} hf:PATH",
        )
    parsed = split_spec(chosen)
    # Which layers and limits are meant is for the cards to say, where the spec stands for more; a remembered
    # one may be that of another feature, whose last layer is the same.
    others = () if len(plain) == 1 else ("layers",) if spec else ("layers", "norm", "pooling")
    parsed = parsed.without(*others, *parsed.lists)
    try:
        encoder = _load(parsed, card.modality, {"device": device}, _settings(plain))
    except EncoderError as bad:
        if spec is not None:
            raise
        raise EncoderError(
            f"the {card.modality} encoder is no longer where it was",
            where=card.model,
            found=f"{chosen}: {bad.problem}",
            todo=f"give it with {option}",
        ) from bad
    for wanted, found in zip(plain, cards_of(encoder), strict=True):
        _check_same(wanted, found, chosen, option)
    if spec is not None:
        for wanted in cards:
            memory.remember(wanted, str(parsed))
    return encoder if all(each.view is None for each in cards) else _viewed(encoder, cards, plain)


def _viewed(encoder: ImageEncoder, cards: Sequence[EncoderCard], plain: Sequence[EncoderCard]) -> Any:
    from embedstore.encoders.views import ViewedImages, view_of

    outputs = [each.fingerprint for each in plain]
    wanted = [(view_of(card), outputs.index(card.plain.fingerprint)) for card in cards]
    return ViewedImages(encoder, wanted)


def twin_for_cards(encoder: Any, cards: Sequence[EncoderCard]) -> Any:
    """The encoder of `cards` that is a loaded one but for its limit: the weights are then in memory once.

    None where more differs.
    """
    own = cards_of(encoder)
    limit = cards[0].tokenizer
    if limit is None or not isinstance(encoder, Limited):
        return None
    if [_but_for_the_limit(card) for card in own] != [_but_for_the_limit(card) for card in cards]:
        return None
    twin = encoder.limited(limit.max_length)
    found = zip(cards, cards_of(twin), strict=True)
    return None if any(wanted.differences(card) for wanted, card in found) else twin


def _but_for_the_limit(card: EncoderCard) -> dict[str, Any]:
    identity = card.identity
    if identity["tokenizer"] is not None:
        identity["tokenizer"].pop("max_length")
    return identity


def same_pass(one: EncoderCard, other: EncoderCard) -> bool:
    """Whether one pass makes two features: they are of one model, at most of different layers or views."""
    fields = set(differing_fields(one.plain, other.plain))
    inner = _LAST not in (one.layer, other.layer)
    if "layer" not in fields or (inner and fields & {"final_norm", "pooling"}):
        return not fields
    return fields <= _OF_A_LAYER and ("pooling" not in fields or _usual_pooling(one, other))


def _usual_pooling(one: EncoderCard, other: EncoderCard) -> bool:
    """Whether two poolings are what a pass gives without `pooling=`: the library's own, and a layer's."""
    last, inner = (one, other) if one.layer == _LAST else (other, one)
    if one.modality == "image":
        usual = "cls" if inner.prefix > inner.registers else "mean"
    else:
        usual = "last" if last.pooling in ("eot", "text_embeds") else "mean"
    return last.pooling not in _CHOSEN_POOLINGS and inner.pooling == usual


def _public_spec(card: EncoderCard) -> str | None:
    from embedstore.encoders.demo import MODELS

    if card.model in MODELS:
        return f"demo:{MODELS[card.model]}"
    kind = _PUBLIC_KINDS.get(card.library)
    # Without a slash it is the name of a folder, but for timm; a file has a suffix that no tag has.
    if kind is None or ("/" not in card.model and kind != "timm") or WEIGHTS.search(card.model):
        return None
    return f"{kind}:{card.model}" + (f"?revision={card.revision}" if card.revision else "")


def _settings(cards: Sequence[EncoderCard]) -> dict[str, Any]:
    """What was or may have been overridden when the cards were made, to be set again."""
    card = cards[0]
    chosen: dict[str, Any] = {"layers": tuple(card.layer for card in cards)}
    if card.pooling in _CHOSEN_POOLINGS and len({card.pooling for card in cards}) == 1:
        chosen["pooling"] = card.pooling
    if {other.final_norm for other in cards if other.layer != _LAST} == {True}:
        chosen["norm"] = "true"
    if card.tokenizer is not None:
        return chosen | {"max_length": card.tokenizer.max_length, "prompt_text": card.tokenizer.prompt}
    if card.processor is not None:
        backend = card.processor.backend
        own = {"backend": backend} if backend in ("pil", "torchvision") else {}
        return chosen | {"image_size": card.processor.size, "draft": draft_edge(card), **own}
    return chosen


def _check_same(wanted: EncoderCard, found: EncoderCard, spec: str, option: str) -> None:
    fields = wanted.differences(found)
    if fields:
        lines = "; ".join(f"{name}: stored {a!r}, now {b!r}" for name, (a, b) in fields.items())
        raise EncoderError(
            "this is not the encoder that made the feature",
            where=spec,
            found=lines,
            todo=f"give the right one with {option}",
        )
