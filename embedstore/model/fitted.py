"""A fitted head, loaded from its folder and checked against the features it is used on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from embedstore.documents import EncoderCard, HeadConfig, load_document
from embedstore.errors import HeadError
from embedstore.heads.base import build_head
from embedstore.model.hub import head_folder
from embedstore.policies import parse_policy
from embedstore.store.coding.shrink import shrink_tokens
from embedstore.stream.embed import embed_images, embed_texts

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    from torch import Tensor

    from embedstore.encoders.base import ImageBatch
    from embedstore.heads.base import Head
    from embedstore.shapes import Float32Array, IntArray
    from embedstore.store import Feature

CONFIG = "head.json"
WEIGHTS = "head.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedHead:
    """A head in evaluation mode with its record; `sha256` over both, through the weights' hash, names it.

    `folder`: where it was loaded from, with the log of its fit where there is one.
    """

    config: HeadConfig
    module: Head
    sha256: str
    device: torch.device
    folder: Path | None = None

    @property
    def width(self) -> int:
        """The width of a joint embedding, all its parts together."""
        parts = self.module.parts
        return parts[-1].stop if parts else self.config.width

    def check_image(self, feature: Feature) -> None:
        """`HeadError` with the differing fields where a feature is of another image encoder."""
        refuse_other_card(self.config.image_card, feature.card, where=feature.name)

    def check_text(self, feature: Feature) -> None:
        """`HeadError` with the differing fields where a feature is of another text encoder."""
        refuse_other_card(self.config.text_card, feature.card, where=feature.name)

    def embed_images(self, feature: Feature, rows: IntArray, *, batch: int = 256) -> Float32Array:
        """Unit vectors `(n, e)` float32 of image rows, in the order given. Checks the card first."""
        self.check_image(feature)
        return embed_images(
            feature,
            rows,
            lambda part: self.module.embed_image(part.tokens, part.prefix, part.pooled, part.weights),
            batch=batch,
            device=self.device,
        )

    def embed_texts(self, feature: Feature, rows: IntArray, *, batch: int = 1024) -> Float32Array:
        """Unit vectors `(m, e)` float32 of text rows, in the order given. Checks the card first."""
        self.check_text(feature)
        return embed_texts(
            feature.only_pooled() if self.config.text_pooling == "pooled" else feature,
            rows,
            lambda part: self.module.embed_text(part.tokens, part.offsets),
            batch=batch,
            device=self.device,
        )

    @torch.inference_mode()
    def embed_pictures(self, batch: ImageBatch) -> Tensor:
        """Unit vectors `(b, e)` of pictures fresh from the image encoder, on any device.

        Where the head was fitted on fewer tokens a picture (merged, pooled, the mean), these are made first.
        """
        tokens, prefix, pooled = self._moved(batch)
        if self.config.image_shrink is None:
            return self.module.embed_image(tokens, prefix, pooled)
        policy = parse_policy(self.config.image_shrink)
        plain = batch.tokens.float().cpu().numpy()
        fewer, shares = shrink_tokens(policy, plain, self.config.image_card.grid)
        weights = None if shares is None else torch.from_numpy(shares).to(self.device)
        return self.module.embed_image(torch.from_numpy(fewer).to(self.device), prefix, pooled, weights)

    @torch.inference_mode()
    def embed_patches(self, batch: ImageBatch) -> Tensor:
        """A unit vector for every patch, `(b, t, e)`; `HeadError` of a head without them."""
        return self.module.embed_patches(*self._moved(batch))

    def _moved(self, batch: ImageBatch) -> tuple[Tensor, Tensor | None, Tensor]:
        prefix = None if batch.prefix is None else batch.prefix.to(self.device)
        return batch.tokens.to(self.device), prefix, batch.pooled.to(self.device)

    @torch.inference_mode()
    def embed_encoded(self, tokens: Tensor, mask: Tensor, pooled: Tensor) -> Tensor:
        """Unit vectors `(b, e)` of texts fresh from the text encoder.

        `tokens (b, l, d)` with `mask (b, l)`, True where real, and `pooled (b, w)`, on any device: the head
        reads the ones or the other.
        """
        if self.config.text_pooling == "pooled":
            return self.module.embed_text(pooled.to(self.device), torch.arange(len(pooled) + 1))
        offsets = torch.nn.functional.pad(mask.sum(dim=1).cumsum(0), (1, 0)).cpu()
        return self.module.embed_text(tokens[mask].to(self.device), offsets)


def load_head(
    folder: str | PathLike[str],
    *,
    device: torch.device | str = "cpu",
    revision: str | None = None,
    offline: bool = False,
) -> FittedHead:
    """Open the folder that a fit left, or what the hub has as `user/name`; see `embedstore.model.hub`.

    `HeadError` where there is no finished head, where the weights are not those that the record names, and
    where they do not fit the configuration.
    """
    path, place = head_folder(folder, revision=revision, offline=offline), torch.device(device)
    if not (path / CONFIG).is_file():
        raise HeadError(
            "no finished head here", where=path, allowed=f"a folder with {CONFIG}", todo="embedstore fit ..."
        )
    config = load_document(HeadConfig, path / CONFIG, HeadError)
    module = build_head(config)
    module.load_state_dict(_weights(path / WEIGHTS, config, module))
    module.eval().requires_grad_(requires_grad=False)
    return FittedHead(
        config=config, module=module.to(place), sha256=config.fingerprint, device=place, folder=path
    )


def _weights(file: Path, config: HeadConfig, module: torch.nn.Module) -> dict[str, torch.Tensor]:
    try:
        content = file.read_bytes()
    except OSError as bad:
        raise HeadError(f"cannot read the weights: {bad.strerror}", where=file) from None
    found = hashlib.sha256(content).hexdigest()
    if found != config.weights_sha256:
        raise HeadError(
            "the weights are not those of this head",
            where=file,
            found=f"sha256 {found}",
            allowed=str(config.weights_sha256),
            todo="fit again, or restore the folder whole",
        )
    try:
        weights: dict[str, torch.Tensor] = load(content)
    except SafetensorError as bad:
        raise HeadError(f"cannot read the weights: {bad}", where=file) from None
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    if shapes != wanted:
        wrong = sorted(name for name in shapes.keys() | wanted.keys() if shapes.get(name) != wanted.get(name))
        raise HeadError("the weights do not fit the configuration", where=file, found=", ".join(wrong))
    return weights


def refuse_other_card(fitted: EncoderCard, found: EncoderCard, *, where: object) -> None:
    """`HeadError` that lists the fields in which a feature's encoder is not the one a head was fitted for.

    An augmented view is of the same encoder as the picture itself.
    """
    # A head that has learnt from augmented views is for the pictures themselves.
    fields = fitted.plain.differences(found.plain)
    if fields:
        raise HeadError(
            "the head was fitted for another encoder",
            where=where,
            found="; ".join(f"{name}: fitted {a!r}, here {b!r}" for name, (a, b) in fields.items()),
            todo="use the feature it was fitted for, or fit a head on this one",
        )
