"""The lines of `hf:` in the table of encoders, from the tables of families."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from embedstore.encoders import hf_image_families, hf_text_families
from embedstore.encoders.lines import Line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embedstore.encoders.hf_image_families import ImageFamily
    from embedstore.encoders.hf_text_families import TextFamily

F = TypeVar("F", "ImageFamily", "TextFamily")

_POOLED = {
    "cls": "CLS",
    "mean": "mean of the tokens",
    "image_embeds": "projected CLS",
    "mean+norm": "normed mean of the tokens",
    "attention": "attention pooling",
    "last": "last token",
    "eot": "EOT",
    "text_embeds": "projected EOT",
    "last-place": "projected last place",
}


def hf_lines() -> list[Line]:
    """A line for each class of transformers, with the model types that lead to it."""
    images = [_image(types, family) for types, family in _grouped(hf_image_families.FAMILIES)]
    return images + [_text(types, family) for types, family in _grouped(hf_text_families.FAMILIES)]


def _grouped(families: Mapping[str, F]) -> list[tuple[list[str], F]]:
    groups: dict[str, tuple[list[str], F]] = {}
    for name, family in families.items():
        groups.setdefault(family.model, ([], family))[0].append(name)
    return list(groups.values())


def _image(types: list[str], family: ImageFamily) -> Line:
    config = _config(family.model)
    family = family.adapt(family, config)
    prefix = {0: "", 1: " + CLS", 2: " + CLS, distillation"}[family.cls]
    registers = ", registers" if hasattr(config, "num_register_tokens") else ""
    tokens = "patches" if family.stride is None else f"map, {family.stride} px a token"
    width = "`hidden_size`" if isinstance(getattr(config, "hidden_size", None), int) else "`hidden_sizes[-1]`"
    normed = "" if family.normed else ", not normed"
    return Line(
        spec=_spec("image", types),
        tokens=f"{tokens}{prefix}{registers}{normed}",
        width=width,
        pooled=_POOLED[family.pooled],
        tested=f"`{type(config).__name__}`",
    )


def _text(types: list[str], family: TextFamily) -> Line:
    tokens = "real tokens, seen with padding" if family.padded else "real tokens"
    return Line(
        spec=_spec("text", types),
        tokens=tokens,
        width="`hidden_size`",
        pooled=_POOLED[family.pooled],
        tested=f"`{type(_config(family.model)).__name__}`",
    )


def _spec(modality: str, types: list[str]) -> str:
    return f"`hf:` {modality}, {', '.join(f'`{name}`' for name in types)}"


def _config(model: str) -> Any:
    """A configuration of the class with its defaults, without the library's remarks on it."""
    import transformers

    from embedstore.encoders.checkpoint import quiet

    with quiet():
        return getattr(transformers, model).config_class()
