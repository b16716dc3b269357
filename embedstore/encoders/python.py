"""`python:module:Class`: an encoder of one's own; docs/encoders.md says what the class must be.

A module runs when it is imported, so its name comes from the command line (or a caller's code) alone: it is
neither stored nor remembered, and no file that a store or a head is made of can name one.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from embedstore.documents import EncoderCard
from embedstore.encoders.base import ImageBatch, ImageEncoder, TextBatch, TextEncoder, cards_of, encode_all
from embedstore.encoders.lines import Line
from embedstore.errors import EncoderError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Python:
    """The encoder kind `python`: images or texts, as the class is."""

    def lines(self) -> list[Line]:
        """Its lines of the table in the docs."""
        return [
            Line(
                spec=f"`python:module:Class` {modality}",
                tokens="as its card says",
                width="as its card says",
                pooled="as its card says",
                tested=f"`{example}` below",
            )
            for modality, example in (("image", "Squares"), ("text", "Letters"))
        ]

    def image(
        self,
        name: str,
        *,
        device: str = "auto",
        image_size: int | tuple[int, int] | None = None,
        dtype: str | None = None,
        **options: Any,
    ) -> ImageEncoder:
        """Make the class with the options that it takes, and check what it is."""
        square = image_size[0] if isinstance(image_size, tuple) and len(set(image_size)) == 1 else image_size
        encoder: ImageEncoder = _made(name, device, {"dtype": dtype, **options}, {"image_size": square})
        _check(encoder, "image", f"python:{name}")
        size = encoder.card.processor.size if encoder.card.processor is not None else None
        if square is not None and size not in (square, (square, square)):
            raise _fixed("image_size", name, found=square, allowed=size)
        for card, batch in zip(cards_of(encoder), _probe_images(encoder, f"python:{name}"), strict=True):
            _check_images(card, batch, f"python:{name}")
        return encoder

    def text(
        self,
        name: str,
        *,
        device: str = "auto",
        max_length: int | None = None,
        dtype: str | None = None,
        **options: Any,
    ) -> TextEncoder:
        """Make the class with the options that it takes, and check what it is."""
        encoder: TextEncoder = _made(name, device, {"dtype": dtype, **options}, {"max_length": max_length})
        _check(encoder, "text", f"python:{name}")
        limit = encoder.card.tokenizer.max_length if encoder.card.tokenizer is not None else None
        if max_length not in (None, limit):
            raise _fixed("max_length", name, found=max_length, allowed=limit)
        _check_texts(encoder, f"python:{name}")
        return encoder


def _made(name: str, device: str, asked: Mapping[str, Any], wished: Mapping[str, Any]) -> Any:
    """The object; `wished` is passed on where the class takes it, and compared with the card afterwards."""
    kind = _class(name)
    parameters = inspect.signature(kind).parameters.values()
    known = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters)
    given = {key: value for key, value in asked.items() if value is not None}
    for option in given:
        if option not in known and not anything:
            raise UsageError(
                f"the class takes no option {option!r}",
                where=f"python:{name}",
                allowed=", ".join(known) or "none",
            )
    taken = {"device": device, **{key: value for key, value in wished.items() if value is not None}}
    return kind(**given, **{key: value for key, value in taken.items() if key in known or anything})


def _fixed(option: str, name: str, *, found: object, allowed: object) -> UsageError:
    return UsageError(
        f"the class made an encoder of another {option}", where=f"python:{name}", found=found, allowed=allowed
    )


def _class(name: str) -> Any:
    module, colon, attribute = name.rpartition(":")
    if not colon or not module or not attribute.isidentifier():
        raise UsageError("an own encoder is written python:MODULE:CLASS", found=f"python:{name}")
    try:
        with _current_folder_on_path():
            loaded = importlib.import_module(module)
    except ModuleNotFoundError as absent:
        raise EncoderError(
            f"no module named {absent.name!r}",
            where=f"python:{name}",
            todo="run in its folder, or install it where embedstore is",
        ) from absent
    found = getattr(loaded, attribute, None)
    if not callable(found):
        raise EncoderError(
            f"the module has no class {attribute!r}",
            where=f"python:{name}",
            allowed=", ".join(key for key, value in vars(loaded).items() if _is_own(value, module)) or "none",
        )
    return found


def _is_own(value: object, module: str) -> bool:
    return inspect.isclass(value) and value.__module__ == module


@contextlib.contextmanager
def _current_folder_on_path() -> Iterator[None]:
    """Last, so that it hides nothing: a command's own path does not hold the folder where it is run."""
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.append(here)
    try:
        yield
    finally:
        if added:
            sys.path.remove(here)


def _check(encoder: Any, modality: Literal["image", "text"], where: str) -> None:
    lacking = [name for name in ("card", "prepare", "encode") if not hasattr(encoder, name)]
    if lacking:
        raise EncoderError(
            f"this is no {modality} encoder", where=where, found=f"nothing called {', '.join(lacking)}"
        )
    for card in cards_of(encoder):
        if not isinstance(card, EncoderCard):
            raise EncoderError("the card is no EncoderCard", where=where, found=type(card).__name__)
        stated = {"modality": card.modality, "library": card.library}
        if stated != {"modality": modality, "library": "python"} or "python" not in card.versions:
            raise EncoderError(
                "the card is of another kind of encoder",
                where=where,
                found=f"{stated}, versions of {', '.join(card.versions)}",
                allowed=f"modality {modality!r}, library 'python', versions with 'python' among them",
            )


def _probe_images(encoder: ImageEncoder, where: str) -> tuple[ImageBatch, ...]:
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    pixels = encoder.prepare(Image.fromarray(noise))
    size = encoder.card.processor.size if encoder.card.processor is not None else ()
    if _described(pixels) != f"{(3, *size)} float32":
        raise EncoderError(
            "prepare gives other pixels than the card says",
            where=where,
            found=_described(pixels),
            allowed=f"a NumPy array {(3, *size)} of float32",
        )
    return encode_all(encoder, [pixels])


def _check_images(card: EncoderCard, batch: ImageBatch, where: str) -> None:
    grid = card.grid or (0, 0)
    prefix = (1, card.prefix, card.width)
    wanted: dict[str, tuple[int, ...] | None] = {
        "tokens": (1, grid[0] * grid[1], card.width),
        "prefix": prefix if card.prefix else None,
        "pooled": (1, card.pooled_width),
    }
    _check_batch(batch, ImageBatch, wanted, where)


def _check_texts(encoder: TextEncoder, where: str) -> None:
    ids, cut = encoder.prepare(["a dog", ""])
    if len(ids) != 2 or len(cut) != 2 or any(_described(one) != f"({len(one)},) int64" for one in ids):
        raise EncoderError(
            "prepare gives other ids than it must",
            where=where,
            found=", ".join(map(_described, ids)),
            allowed="for each text a NumPy array (l,) of int64, and whether it was cut",
        )
    longest = max(map(len, ids))
    for card, batch in zip(cards_of(encoder), encode_all(encoder, ids), strict=True):
        wanted: dict[str, tuple[int, ...] | None] = {
            "tokens": (2, longest, card.width),
            "mask": (2, longest),
            "pooled": (2, card.pooled_width),
        }
        _check_batch(batch, TextBatch, wanted, where)


def _check_batch(batch: Any, kind: type, wanted: Mapping[str, tuple[int, ...] | None], where: str) -> None:
    if not isinstance(batch, kind):
        raise EncoderError(f"encode gives no {kind.__name__}", where=where, found=type(batch).__name__)
    for name, shape in wanted.items():
        tensor = getattr(batch, name)
        found = None if tensor is None else tuple(tensor.shape)
        if found != shape:
            raise EncoderError(
                f"{name} are not what the card says", where=where, found=f"shape {found}", allowed=shape
            )
        if tensor is not None and tensor.requires_grad:
            raise EncoderError(f"{name} carry gradients", where=where, todo="use torch.inference_mode()")


def _described(value: Any) -> str:
    return f"{value.shape} {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
