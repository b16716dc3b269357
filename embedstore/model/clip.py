"""A fitted model as those of open_clip are used: pixels and token ids in, embeddings out.

What CLIP_benchmark, open_clip's zero-shot classifier and code written for them call, and no more.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from embedstore.encoders import encoder_for_card
from embedstore.errors import UsageError
from embedstore.model.aligned import AlignedModel, load
from embedstore.sources.reading.pictures import as_opened

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from PIL.Image import Image

    from embedstore.encoders.base import ImageEncoder, TextEncoder

# No token has this id, whatever the tokenizer's own padding is.
PADDING = -1


class ClipTriple(NamedTuple):
    """Model, transform and tokenizer, in the order in which CLIP_benchmark's `load_clip` gives them."""

    model: ClipModel
    transform: ClipTransform
    tokenizer: ClipTokenizer


def load_clip(
    place: str | PathLike[str],
    *,
    image_encoder: str | None = None,
    text_encoder: str | None = None,
    device: str = "auto",
    revision: str | None = None,
    offline: bool = False,
) -> ClipTriple:
    """`model, transform, tokenizer` of a head; arguments and errors as of `embedstore.load`."""
    model = load(
        place,
        image_encoder=image_encoder,
        text_encoder=text_encoder,
        device=device,
        revision=revision,
        offline=offline,
    )
    return ClipTriple(ClipModel(model), ClipTransform(model.image_encoder), ClipTokenizer(model.text_encoder))


class ClipTransform:
    """A PIL picture to the pixels that the image encoder sees, `(3, h, w)` float32.

    Goes through pickle without the model (DataLoader workers): each process then loads the encoder's
    preparation anew, on the CPU.
    """

    def __init__(self, encoder: ImageEncoder) -> None:
        self._card = encoder.card
        self._encoder: ImageEncoder | None = encoder

    def __call__(self, picture: Image) -> Tensor:
        """In any mode; turned upright where its EXIF says so."""
        if self._encoder is None:
            self._encoder = encoder_for_card(self._card, device="cpu")
        return torch.from_numpy(np.ascontiguousarray(self._encoder.prepare(as_opened(picture))))

    def __getstate__(self) -> dict[str, Any]:
        return {"_card": self._card, "_encoder": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class ClipTokenizer:
    """Texts to token ids `(b, l)` int64, l the longest of them or `context_length`; -1 is padding."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        tokenizer = encoder.card.tokenizer
        self.context_length = 0 if tokenizer is None else tokenizer.max_length

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> Tensor:
        """Texts are cut at the card's `max_length`.

        `UsageError` for a `context_length` that is too short for them.
        """
        ids, _ = self._encoder.prepare([texts] if isinstance(texts, str) else list(texts))
        longest = max((len(row) for row in ids), default=0)
        if context_length is not None and context_length < longest:
            raise UsageError(
                "the encoder cuts texts by its own rule",
                where="context_length",
                found=context_length,
                allowed=f"{longest} or more, or none",
            )
        found = torch.full((len(ids), context_length or longest), PADDING, dtype=torch.int64)
        for row, one in zip(found, ids, strict=True):
            row[: len(one)] = torch.from_numpy(one)
        return found


class ClipModel(nn.Module):
    """`encode_image` and `encode_text` of tensors; frozen, and in evaluation mode whatever `train` says.

    `logit_scale` is the logarithm of `1 / temperature`, as in CLIP; `logit_bias` is none. Embeddings are unit
    vectors float32 with or without `normalize`, on the model's device, without gradients. Encoders and head
    stay on the device they were loaded for.
    """

    logit_scale: Tensor
    logit_bias: None = None

    def __init__(self, model: AlignedModel) -> None:
        super().__init__()
        self.aligned = model
        self.register_buffer("logit_scale", torch.tensor(math.log(model.logit_scale)))
        self.logit_scale = self.logit_scale.to(model.device)
        super().train(mode=False)

    @property
    def output_dim(self) -> int:
        """Width of an embedding."""
        return self.aligned.width

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.aligned.device

    def encode_image(self, image: Tensor, normalize: bool = True) -> Tensor:  # noqa: ARG002, FBT001, FBT002 - open_clip's signature
        """`(b, 3, h, w)` float as the transform gives, on any device, to unit vectors `(b, e)`."""
        card = self.aligned.config.image_card
        if image.ndim != 4:
            raise UsageError(
                "not a batch of pictures", found=f"shape {tuple(image.shape)}", allowed="(b, 3, h, w)"
            )
        if card.processor is not None and tuple(image.shape[2:]) != card.processor.size:
            raise UsageError(
                "pictures of another size than the encoder's",
                found=f"{tuple(image.shape[2:])}",
                allowed=f"{card.processor.size}, as the model's own transform gives",
            )
        pixels = image.detach().float().cpu().numpy()
        with torch.autocast(self.device.type, enabled=False):
            return self.aligned.embed_pixels(list(pixels)).clone() if len(pixels) else self._none()

    def encode_text(self, text: Tensor, normalize: bool = True) -> Tensor:  # noqa: ARG002, FBT001, FBT002 - open_clip's signature
        """Token ids `(b, l)` of the model's own tokenizer to unit vectors `(b, e)`."""
        if text.ndim != 2 or text.is_floating_point():
            raise UsageError(
                "not a batch of token ids",
                found=f"{text.dtype} {tuple(text.shape)}",
                allowed="(b, l) int64, as the model's own tokenizer gives",
            )
        ids = [row[row != PADDING] for row in text.cpu().numpy().astype(np.int64)]
        with torch.autocast(self.device.type, enabled=False):
            return self.aligned.embed_ids(ids).clone() if ids else self._none()

    def get_logits(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """`exp(logit_scale) · cosine` of pictures with texts `(b, c)`, and the same turned."""
        found = self.logit_scale.exp() * self.encode_image(image) @ self.encode_text(text).T
        return found, found.T

    def forward(
        self, image: Tensor | None = None, text: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """Both embeddings, none where nothing is given, and the scale itself (not its logarithm)."""
        return (
            None if image is None else self.encode_image(image),
            None if text is None else self.encode_text(text),
            self.logit_scale.exp(),
        )

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002, FBT001, FBT002 - torch's signature
        """Stays in evaluation mode."""
        return self

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """The device that the model is on, or a refusal: the encoders are loaded for one device.

        A number format is ignored: embeddings are float32.
        """
        device: Any = torch._C._nn._parse_to(*args, **kwargs)[0]
        if device is not None and torch.device(device).type != self.device.type:
            raise UsageError(
                "the model is loaded for another device",
                found=str(device),
                allowed=str(self.device),
                todo=f"load_clip(..., device={str(device)!r})",
            )
        return self

    def _none(self) -> Tensor:
        return torch.empty(0, self.output_dim, device=self.device)
