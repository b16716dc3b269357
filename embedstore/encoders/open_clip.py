"""`open_clip:` two-tower models of open_clip, by architecture and weights, hub id or folder.

Image tokens are those of the last block after the final norm, patches only, row-major, with CLS in the
prefix. Where a tower pools before its norm (CoCa), or is a convolutional network, they are without the norm,
and the card says so. Pooled is the projected embedding, unnormalised.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from embedstore.documents import ProcessorCard
from embedstore.encoders.base import ImageBatch
from embedstore.encoders.checkpoint import Checkpoint, loading
from embedstore.encoders.checkpoint import locate as locate_hub
from embedstore.encoders.device import pick_device, pick_dtype
from embedstore.encoders.image_model import ImageModel, ModelImageEncoder
from embedstore.encoders.lines import Line
from embedstore.encoders.transforms import Transform, keep_ratio_rule, refuse_border
from embedstore.errors import EncoderError, MissingExtraError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from embedstore.encoders.base import ImageEncoder, TextEncoder
    from embedstore.encoders.hf_processor import Size

_HUB, _FOLDER = "hf-hub:", "local-dir:"


class OpenCLIP:
    """The encoder kind `open_clip`: images and texts."""

    def lines(self) -> list[Line]:
        """Its lines of the table in the docs."""
        towers = {
            "its own ViT": ("patches + CLS", "`width`", "`clip`, `avg`"),
            "its own ViT, pooled before the norm": ("patches + CLS, not normed", "`width`", "`coca`"),
            "timm's models": ("as of `timm:`", "`num_features`", "`siglip`, `convnext`"),
            "CLIP's ResNet": ("places of the last map", "32 × `width`", "`resnet`"),
        }
        words = {
            "its own transformer": ("real tokens", "`width`", "`clip`"),
            "its own transformer, no causal mask or CLS last": (
                "real tokens, seen with padding",
                "`width`",
                "`siglip`, `coca`",
            ),
            "transformers' models": ("real tokens", "`hidden_size`", "`roberta`"),
        }
        return [
            Line(
                spec=f"`open_clip:` {modality}, {name}",
                tokens=tokens,
                width=width,
                pooled=f"projected, `{modality}_features`",
                tested=tested,
            )
            for modality, kinds in (("image", towers), ("text", words))
            for name, (tokens, width, tested) in kinds.items()
        ]

    def image(
        self,
        name: str,
        *,
        device: str = "auto",
        image_size: int | Size | None = None,
        dtype: str | None = None,
    ) -> ImageEncoder:
        """Load the image tower of `ARCH/TAG`, `ARCH/path/to/weights`, `hf-hub:org/name` or a folder.

        `MissingExtraError` without open_clip.
        """
        library()
        where = pick_device(device)
        found = locate(name)
        model = load_model(found, image_size=image_size)
        transform = _transform(model, where=found.checkpoint.model)
        if image_size is not None:
            refuse_border(transform.card.size, _patch(model.visual), where=found.checkpoint.model)
        loaded = _described(found.checkpoint, model, transform.card.size)
        if image_size is not None:
            loaded = replace(loaded, positions=_fitted_positions(found, model.visual, loaded.grid))
        return ModelImageEncoder(
            found.checkpoint, loaded, transform, device=where, dtype=pick_dtype(dtype, where)
        )

    def text(
        self, name: str, *, device: str = "auto", max_length: int | None = None, dtype: str | None = None
    ) -> TextEncoder:
        """Load the text tower; names as of `image`."""
        library()
        from embedstore.encoders.open_clip_text import load

        return load(locate(name), device=device, max_length=max_length, dtype=dtype)


def library() -> Any:
    """The library itself; `MissingExtraError` where it is not installed."""
    try:
        import open_clip
    except ModuleNotFoundError as absent:
        raise MissingExtraError(
            "open_clip: needs a package that is not installed", todo="pip install 'embedstore[open-clip]'"
        ) from absent
    return open_clip


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a model is: the two names that open_clip takes, and what a card may say."""

    checkpoint: Checkpoint
    name: str
    weights: str | None = None
    quick_gelu: bool = False


def locate(name: str) -> Place:
    """What a name means; `UnknownNameError` with the library's tags where it has no such weights."""
    folder = Path(name).expanduser()
    if (folder / "open_clip_config.json").is_file():
        found = Checkpoint(source=str(folder), model=folder.resolve().name, revision=None, local=True)
        return Place(checkpoint=found, name=f"{_FOLDER}{folder}")
    if name.startswith(_HUB):
        hub = locate_hub(name.removeprefix(_HUB))
        found = Checkpoint(source=hub.source, model=name, revision=None, local=False)
        return Place(checkpoint=found, name=name)
    architecture, slash, weights = name.partition("/")
    known = library().list_pretrained_tags_by_model(architecture)
    if architecture not in library().list_models() or not weights:
        raise UnknownNameError(
            "not a name of a model of open_clip",
            where=f"open_clip:{name}",
            found=f"architecture {architecture!r}" + ("" if slash else " without weights"),
            allowed="ARCH/TAG, ARCH/path/to/weights, hf-hub:ORG/NAME, or a folder with open_clip_config.json",
            todo=f"tags of {architecture}: {', '.join(known)}"
            if known
            else "open_clip.list_models() has names",
        )
    file = Path(weights).expanduser()
    if file.is_file():
        found = Checkpoint(source=str(file), model=f"{architecture}/{file.name}", revision=None, local=True)
        return Place(checkpoint=found, name=architecture, weights=str(file))
    if weights not in known:
        raise UnknownNameError(
            "there is no such file, and open_clip has no such weights",
            where=f"open_clip:{name}",
            found=weights,
            allowed=", ".join(known) or "no tags: give a file",
        )
    found = Checkpoint(source=name, model=name, revision=None, local=False)
    return Place(
        checkpoint=found, name=architecture, weights=weights, quick_gelu=_quick_gelu(architecture, weights)
    )


def _quick_gelu(architecture: str, tag: str) -> bool:
    """Whether weights need the quick GELU though their architecture's name does not say so."""
    trained = bool(library().get_pretrained_cfg(architecture, tag).get("quick_gelu", False))
    built = bool(library().get_model_config(architecture).get("quick_gelu", False))
    if built and not trained:
        raise UsageError(
            "these weights were not trained with the quick GELU",
            where=f"open_clip:{architecture}/{tag}",
            todo=f"name the architecture {architecture.removesuffix('-quickgelu')}",
        )
    return trained and not built


def load_model(place: Place, *, image_size: int | Size | None = None) -> Any:
    """Both towers in float32 for inference, every tensor loaded."""
    size = image_size[0] if isinstance(image_size, tuple) and len(set(image_size)) == 1 else image_size
    _refuse_remote_code(place)
    with quiet(), loading(place.checkpoint, "model"):
        model = library().create_model(
            place.name,
            place.weights,
            force_quick_gelu=place.quick_gelu,
            force_image_size=size,
            require_pretrained=True,
        )
    return model.eval().requires_grad_(requires_grad=False)


def _refuse_remote_code(place: Place) -> None:
    """A checkpoint's configuration has arguments for its tokenizer, which could let in code of its own."""
    with quiet(), loading(place.checkpoint, "configuration"):
        text = (library().get_model_config(place.name) or {}).get("text_cfg", {})
    trusted = text.get("tokenizer_kwargs", {}).get("trust_remote_code")
    if trusted:
        raise EncoderError(
            "the checkpoint wants code of its own to be run, which is never done",
            where=place.checkpoint.model,
            found=f"tokenizer_kwargs: trust_remote_code={trusted}",
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep open_clip from setting up and using the root logger, and from asking to run foreign code."""
    from transformers import dynamic_module_utils

    root, silent, level = logging.getLogger(), logging.NullHandler(), logging.root.manager.disable
    seconds = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    root.addHandler(silent)
    logging.disable(logging.CRITICAL)
    # It loads parts through transformers, which asks the user where it is told nothing; without time to
    # answer the answer is no.
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = seconds
        logging.disable(level)
        root.removeHandler(silent)


def _fitted_positions(place: Place, visual: Any, grid: Size) -> str | None:
    from embedstore.encoders.timm import fitted_positions

    size, patch = library().get_model_config(place.name)["vision_cfg"]["image_size"], _patch(visual)
    (rows, columns), (high, wide) = ((v, v) if isinstance(v, int) else v for v in (size, patch))
    own = rows // high, columns // wide
    if hasattr(visual, "positional_embedding"):
        return None if own == grid else f"interpolated from {own[0]}x{own[1]}"
    return fitted_positions(getattr(visual, "trunk", None), own=own, grid=grid)


def _patch(visual: Any) -> int | Size:
    from embedstore.encoders.timm import patch_of

    found: int | Size = getattr(visual, "patch_size", None) or patch_of(getattr(visual, "trunk", None))
    return found


def _transform(model: Any, *, where: str) -> Transform:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    config = PreprocessCfg(**model.visual.preprocess_cfg)
    size: Size = (config.size, config.size) if isinstance(config.size, int) else tuple(config.size)
    rules = {
        "shortest": keep_ratio_rule(size, size),
        "longest": f"inside={size[0]}x{size[1]}",
        "squash": f"exact={size[0]}x{size[1]}",
    }
    if config.resize_mode not in rules:
        raise EncoderError("the model's preprocessing is not known", where=where, found=config)
    crop = {"shortest": f"center={size[0]}x{size[1]}", "longest": f"pad={config.fill_color}", "squash": None}
    card = ProcessorCard(
        class_name="image_transform_v2",
        backend="open_clip",
        size=size,
        resize=rules[config.resize_mode],
        crop=crop[config.resize_mode],
        interpolation=f"{'bilinear' if config.interpolation == 'bilinear' else 'bicubic'}+antialias",
        rescale=1 / 255,
        mean=tuple(config.mean),
        std=tuple(config.std),
    )
    steps = image_transform_v2(config, is_train=False)
    return Transform(steps, card, edge=max(size) if config.resize_mode == "shortest" else None)


def _described(checkpoint: Checkpoint, model: Any, size: Size) -> ImageModel:
    """How the image tower is read: transformers of open_clip itself, towers of timm, and CLIP's ResNets."""
    visual = model.visual
    name = type(visual).__name__
    if name == "TimmModel":
        return _timm_tower(checkpoint, visual, size)
    # A pooling with queries of its own comes before the norm, whose width may then be another one.
    attentive = getattr(visual, "attn_pool", None) is not None
    normed = name == "VisionTransformer" and (not attentive or visual.attn_pool_contrastive is not None)

    def read(batch: Tensor) -> ImageBatch:
        found = visual.forward_intermediates(
            batch, indices=1, normalize_intermediates=normed, output_extra_tokens=True
        )
        prefix = found.get("image_intermediates_prefix")
        return ImageBatch(
            tokens=found["image_intermediates"][0].flatten(2).transpose(1, 2),
            prefix=None if prefix is None else prefix[0],
            pooled=found["image_features"],
        )

    with torch.inference_mode():
        grid = visual.forward_intermediates(torch.zeros(1, 3, *size), indices=1, intermediates_only=True)
    rows, columns = grid["image_intermediates"][0].shape[2:]
    return ImageModel(
        model=visual,
        read=read,
        grid=(rows, columns),
        used=visual.state_dict().values(),
        library="open_clip",
        distribution="open_clip_torch",
        architecture=name,
        pooling="image_features",
        final_norm=normed,
    )


def _timm_tower(checkpoint: Checkpoint, visual: Any, size: Size) -> ImageModel:
    from embedstore.encoders.timm import FeatureReader, is_normed

    reader = FeatureReader(visual.trunk, size=size, where=checkpoint.model)

    def read(batch: Tensor) -> ImageBatch:
        features = visual.trunk.forward_features(batch)
        return reader.split(features, visual.head(visual.trunk.forward_head(features)))

    return ImageModel(
        model=visual,
        read=read,
        grid=reader.grid,
        used=visual.state_dict().values(),
        library="open_clip",
        distribution="open_clip_torch",
        architecture=f"TimmModel:{type(visual.trunk).__name__}",
        pooling="image_features",
        final_norm=is_normed(visual.trunk),
        registers=reader.registers,
    )
