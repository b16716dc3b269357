"""`hf:` models of transformers, by hub id or local folder. Code inside a checkpoint is never run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedstore.encoders.checkpoint import locate
from embedstore.encoders.spec import yes_or_no

if TYPE_CHECKING:
    from embedstore.encoders.base import ImageEncoder, TextEncoder
    from embedstore.encoders.lines import Line


class HuggingFace:
    """The encoder kind `hf`."""

    def lines(self) -> list[Line]:
        """Its lines of the table in the docs."""
        from embedstore.encoders.hf_lines import hf_lines

        return hf_lines()

    def image(
        self,
        name: str,
        *,
        device: str = "auto",
        image_size: int | tuple[int, int] | None = None,
        dtype: str | None = None,
        backend: str | None = None,
        revision: str | None = None,
        layers: tuple[int, ...] = (-1,),
        pooling: str | None = None,
        norm: str = "false",
    ) -> ImageEncoder:
        """Load an image model; `backend` replaces the pinned backend of its processor.

        `layers`: a feature each, 0 to the number of blocks, or from the back. `pooling`: `cls` or `mean`
        instead of the library's own image embedding. `norm`: `true` puts the tokens of every layer through
        the model's final norm.
        """
        from embedstore.encoders.hf_image import load

        checkpoint = locate(name, revision)
        return load(
            checkpoint,
            device=device,
            image_size=image_size,
            dtype=dtype,
            backend=backend,
            layers=layers,
            pooling=pooling,
            norm=yes_or_no("norm", norm),
        )

    def text(
        self,
        name: str,
        *,
        device: str = "auto",
        max_length: int | None = None,
        dtype: str | None = None,
        revision: str | None = None,
        layers: tuple[int, ...] = (-1,),
        pooling: str | None = None,
    ) -> TextEncoder:
        """Load a text model.

        `layers`: a feature each, 0 to the number of blocks, or from the back. `pooling`: `mean`, `cls`
        (encoders) or `last` (decoders) instead of the library's own text embedding.
        """
        from embedstore.encoders.hf_text import load

        return load(
            locate(name, revision),
            device=device,
            max_length=max_length,
            dtype=dtype,
            layers=layers,
            pooling=pooling,
        )
