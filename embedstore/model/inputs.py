"""What a user hands to a model: pictures and texts one by one or in lists, or embeddings of them."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from PIL.Image import Image

from embedstore.encoders.device import one_openmp_thread
from embedstore.encoders.draft import draft_edge
from embedstore.errors import UnreadableImage, UsageError
from embedstore.sources.reading.pictures import as_opened, decoded_small, open_picture

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future

    from torch import Tensor

    from embedstore.encoders.base import ImageEncoder
    from embedstore.shapes import Float32Array, FloatArray

ImageInput: TypeAlias = "Image | str | os.PathLike[str] | bytes"
Embeddings: TypeAlias = "FloatArray | Tensor"

DECODERS = min(4, os.cpu_count() or 1)


def pictures_of(images: ImageInput | Sequence[ImageInput]) -> list[ImageInput]:
    """Pictures as a list, a single one as a list of one; `UsageError` for what is none."""
    found = [images] if isinstance(images, (Image, str, os.PathLike, bytes)) else list(images)
    for place, picture in enumerate(found):
        if not isinstance(picture, (Image, str, os.PathLike, bytes)):
            raise UsageError(
                "not a picture",
                where=f"picture {place}",
                found=type(picture).__name__,
                allowed="a PIL image, the path of a file, or the bytes of one",
            )
    return found


def texts_of(texts: str | Sequence[str]) -> list[str]:
    """Texts as a list, a single one as a list of one; `UsageError` for what is none."""
    found = [texts] if isinstance(texts, str) else list(texts)
    for place, text in enumerate(found):
        if not isinstance(text, str):
            raise UsageError("not a text", where=f"text {place}", found=type(text).__name__, allowed="str")
    return found


def embeddings_of(given: object) -> Tensor | None:
    """Embeddings `(n, e)` as a float32 tensor where that is what was given, else none."""
    if not isinstance(given, (np.ndarray, torch.Tensor)):
        return None
    found = torch.as_tensor(given)
    if found.ndim != 2 or not found.is_floating_point():
        raise UsageError(
            "not embeddings",
            found=f"{found.dtype} {tuple(found.shape)}",
            allowed="floats (n, e), or a list of pictures or texts",
        )
    return found.float()


def prepared_batches(
    images: Sequence[ImageInput], encoder: ImageEncoder, batch_size: int
) -> Iterator[list[Float32Array]]:
    """Pixels of the pictures in order, `batch_size` at a time; the next batch is decoded meanwhile.

    A file is opened as the encode pass opens it. `UnreadableImage` says which picture cannot be read.
    """
    least = draft_edge(encoder.card)

    def prepare(place: int) -> Float32Array:
        return encoder.prepare(_opened(images[place], least, f"picture {place}"))

    with ThreadPoolExecutor(DECODERS, "decode", initializer=one_openmp_thread) as pool:
        begun: deque[Future[Float32Array]] = deque()
        following = iter(range(len(images)))
        for first in range(0, len(images), batch_size):
            while len(begun) < 2 * batch_size and (place := next(following, None)) is not None:
                begun.append(pool.submit(prepare, place))
            count = min(batch_size, len(images) - first)
            yield [begun.popleft().result() for _ in range(count)]


def _opened(picture: ImageInput, least: int, where: str) -> Image:
    """Upright RGB. A picture that is open already is taken with the pixels that it has."""
    if isinstance(picture, Image):
        return as_opened(picture)
    data = picture if isinstance(picture, bytes) else Path(picture)
    try:
        with decoded_small(least):
            return open_picture(data)
    except UnreadableImage as bad:
        raise UnreadableImage(bad.problem, where=where if isinstance(data, bytes) else data) from None
