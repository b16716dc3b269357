"""A fitted head with its frozen encoders: pictures and texts to one space, compared by cosine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import torch

from embedstore.encoders import encoder_for_card
from embedstore.encoders.device import pick_device
from embedstore.errors import HeadError, UsageError
from embedstore.model.fitted import FittedHead, load_head
from embedstore.model.inputs import embeddings_of, pictures_of, prepared_batches, texts_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from torch import Tensor

    from embedstore.documents import EncoderCard, HeadConfig
    from embedstore.encoders.base import ImageEncoder, TextEncoder
    from embedstore.model.inputs import Embeddings, ImageInput
    from embedstore.shapes import Float32Array, IntArray

Sides: TypeAlias = Literal["both", "image", "text"]


def load(
    place: str | PathLike[str],
    *,
    image_encoder: str | None = None,
    text_encoder: str | None = None,
    encoders: Sides = "both",
    device: str = "auto",
    revision: str | None = None,
    offline: bool = False,
) -> AlignedModel:
    """The model of a head's folder, ready to encode pictures and texts.

    `place` is a folder, or `user/name` on the hub at a `revision`; a folder `user` here comes first, and
    `hf:user/name` always means the hub. With `offline` the hub's cache alone is read.

    The two frozen encoders are those of the head's cards: from `image_encoder` and `text_encoder` (specs),
    else remembered on this machine, else by the model's public name; each is checked against its card.
    `encoders='image'` or `'text'` loads one of them alone. `HeadError` where the folder is no finished head,
    `EncoderError` where an encoder is not found or is another one.
    """
    if encoders not in ("both", "image", "text"):
        raise UsageError("which encoders?", found=encoders, allowed="both, image, text")
    chosen = pick_device(device)
    head = load_head(place, device=chosen, revision=revision, offline=offline)

    def attached(side: Sides, card: EncoderCard, spec: str | None) -> Any:
        # A head that learnt from augmented views is for the pictures themselves.
        wanted = encoders in ("both", side)
        return encoder_for_card(card.plain, spec, device=str(chosen)) if wanted else None

    return AlignedModel(
        head,
        image_encoder=attached("image", head.config.image_card, image_encoder),
        text_encoder=attached("text", head.config.text_card, text_encoder),
    )


class AlignedModel:
    """Pictures and texts to unit vectors of one joint space.

    Vectors come as NumPy float32 on the host, or with `as_tensor=True` as a float32 tensor on the model's
    device, without gradients. Made by `load`. Encodings depend on a batch's other members up to rounding.
    """

    def __init__(
        self,
        head: FittedHead,
        *,
        image_encoder: ImageEncoder | None = None,
        text_encoder: TextEncoder | None = None,
    ) -> None:
        self.head = head
        self._image_encoder, self._text_encoder = image_encoder, text_encoder

    def __repr__(self) -> str:
        config = self.config
        names = f"{config.image_card.model!r}, {config.text_card.model!r}"
        return f"AlignedModel({config.head!r}, {names}, width {self.width}, {self.device})"

    @property
    def config(self) -> HeadConfig:
        """The head's record: what it is, the two encoders' cards, the temperature."""
        return self.head.config

    @property
    def device(self) -> torch.device:
        """Where the head and the encoders run."""
        return self.head.device

    @property
    def width(self) -> int:
        """e, the width of a joint embedding."""
        return self.head.width

    @property
    def logit_scale(self) -> float:
        """`1 / temperature`: softmax of `logit_scale * similarity` over texts is CLIP's class probability."""
        return 1.0 / self.config.temperature

    @property
    def image_encoder(self) -> ImageEncoder:
        """The frozen image encoder; `UsageError` where the model was loaded without it."""
        if self._image_encoder is None:
            raise UsageError("the image encoder is not loaded", todo="load(..., encoders='both')")
        return self._image_encoder

    @property
    def text_encoder(self) -> TextEncoder:
        """The frozen text encoder; `UsageError` where the model was loaded without it."""
        if self._text_encoder is None:
            raise UsageError("the text encoder is not loaded", todo="load(..., encoders='both')")
        return self._text_encoder

    @overload
    def encode_image(
        self,
        images: ImageInput | Sequence[ImageInput],
        *,
        batch_size: int = ...,
        as_tensor: Literal[False] = ...,
    ) -> Float32Array: ...
    @overload
    def encode_image(
        self, images: ImageInput | Sequence[ImageInput], *, batch_size: int = ..., as_tensor: Literal[True]
    ) -> Tensor: ...
    def encode_image(
        self,
        images: ImageInput | Sequence[ImageInput],
        *,
        batch_size: int = 32,
        as_tensor: bool = False,
    ) -> Float32Array | Tensor:
        """Unit vectors `(n, e)` of PIL images, paths or bytes of files; a single one gives `(1, e)`.

        Files are opened as the encode pass does; an open picture is taken with the pixels that it has, turned
        upright. `UnreadableImage` names the picture that cannot be read.
        """
        found = self._image_vectors(pictures_of(images), _positive(batch_size))
        return found if as_tensor else found.cpu().numpy()

    @overload
    def encode_text(
        self, texts: str | Sequence[str], *, batch_size: int = ..., as_tensor: Literal[False] = ...
    ) -> Float32Array: ...
    @overload
    def encode_text(
        self, texts: str | Sequence[str], *, batch_size: int = ..., as_tensor: Literal[True]
    ) -> Tensor: ...
    def encode_text(
        self, texts: str | Sequence[str], *, batch_size: int = 64, as_tensor: bool = False
    ) -> Float32Array | Tensor:
        """Unit vectors `(m, e)` of texts; a single one gives `(1, e)`.

        Texts are cut at the card's `max_length` tokens, as in the encode pass; no prompt is added but the
        card's own.
        """
        found = self._text_vectors(texts_of(texts), _positive(batch_size))
        return found if as_tensor else found.cpu().numpy()

    @overload
    def similarity(
        self,
        images: ImageInput | Sequence[ImageInput] | Embeddings,
        texts: str | Sequence[str] | Embeddings,
        *,
        as_tensor: Literal[False] = ...,
    ) -> Float32Array: ...
    @overload
    def similarity(
        self,
        images: ImageInput | Sequence[ImageInput] | Embeddings,
        texts: str | Sequence[str] | Embeddings,
        *,
        as_tensor: Literal[True],
    ) -> Tensor: ...
    def similarity(
        self,
        images: ImageInput | Sequence[ImageInput] | Embeddings,
        texts: str | Sequence[str] | Embeddings,
        *,
        as_tensor: bool = False,
    ) -> Float32Array | Tensor:
        """Cosines `(n, m)` of n pictures and m texts; either side may be given as its embeddings `(., e)`."""
        left = self._given(images)
        left = self._image_vectors(pictures_of(images), 32) if left is None else left  # type: ignore[arg-type]  # embeddings are ruled out
        found = left @ self._class_vectors(texts).T
        return found if as_tensor else found.cpu().numpy()

    @overload
    def patch_similarity(
        self,
        images: ImageInput | Sequence[ImageInput],
        texts: str | Sequence[str] | Embeddings,
        *,
        batch_size: int = ...,
        as_tensor: Literal[False] = ...,
    ) -> Float32Array: ...
    @overload
    def patch_similarity(
        self,
        images: ImageInput | Sequence[ImageInput],
        texts: str | Sequence[str] | Embeddings,
        *,
        batch_size: int = ...,
        as_tensor: Literal[True],
    ) -> Tensor: ...
    def patch_similarity(
        self,
        images: ImageInput | Sequence[ImageInput],
        texts: str | Sequence[str] | Embeddings,
        *,
        batch_size: int = 32,
        as_tensor: bool = False,
    ) -> Float32Array | Tensor:
        """Cosines `(n, c, grid_h, grid_w)` of every patch of n pictures and c texts (or their embeddings).

        The arg-max over c is a segmentation of what the processor shows the model (after its crop). All
        patches of the encoder are taken, also where the head was fitted on fewer stored tokens. `HeadError`
        where the encoder has no grid of patches or a single patch means nothing to the head.
        """
        grid = self.config.image_card.grid
        if grid is None:
            raise HeadError("the image encoder has no grid of patches", where=self.config.image_card.model)
        goals = self._class_vectors(texts)
        maps = [goals.new_zeros(0, len(goals), *grid)]
        encoder = self.image_encoder
        for pixels in prepared_batches(pictures_of(images), encoder, _positive(batch_size)):
            patches = self.head.embed_patches(encoder.encode(pixels))
            scores = (patches.float() @ goals.T).mT
            maps.append(scores.reshape(len(pixels), len(goals), *grid))
        found = torch.cat(maps)
        return found if as_tensor else found.cpu().numpy()

    def embed_pixels(self, pixels: Sequence[Float32Array]) -> Tensor:
        """Unit vectors `(b, e)` of one batch of pictures that `image_encoder.prepare` has made ready."""
        return self.head.embed_pictures(self.image_encoder.encode(pixels)).float()

    def embed_ids(self, ids: Sequence[IntArray]) -> Tensor:
        """Unit vectors `(b, e)` of one batch of texts that `text_encoder.prepare` has made ready."""
        batch = self.text_encoder.encode(ids)
        return self.head.embed_encoded(batch.tokens, batch.mask, batch.pooled).float()

    def _image_vectors(self, images: Sequence[ImageInput], batch_size: int) -> Tensor:
        parts = [self._none()]
        parts += [
            self.embed_pixels(pixels) for pixels in prepared_batches(images, self.image_encoder, batch_size)
        ]
        return torch.cat(parts)

    def _text_vectors(self, texts: Sequence[str], batch_size: int) -> Tensor:
        """Longest first, so that little is padded."""
        if not texts:
            return self._none()
        ids, _ = self.text_encoder.prepare(texts)
        order = sorted(range(len(ids)), key=lambda place: -len(ids[place]))
        parts = [
            self.embed_ids([ids[place] for place in order[at : at + batch_size]])
            for at in range(0, len(order), batch_size)
        ]
        found = torch.empty(len(ids), self.width, device=self.device)
        found[torch.tensor(order, device=self.device)] = torch.cat(parts)
        return found

    def _class_vectors(self, texts: str | Sequence[str] | Embeddings) -> Tensor:
        given = self._given(texts)
        return self._text_vectors(texts_of(texts), 64) if given is None else given  # type: ignore[arg-type]  # as above

    def _given(self, embeddings: object) -> Tensor | None:
        found = embeddings_of(embeddings)
        if found is not None and found.shape[1] != self.width:
            raise UsageError("embeddings of another width", found=found.shape[1], allowed=self.width)
        return None if found is None else found.to(self.device)

    def _none(self) -> Tensor:
        return torch.empty(0, self.width, device=self.device)


def _positive(batch_size: int) -> int:
    if batch_size < 1:
        raise UsageError("a batch has at least one member", where="batch_size", found=batch_size)
    return batch_size
