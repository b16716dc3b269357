"""The checkpoint's own image processor: pinned to one backend, described in a card, called cheaply."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from embedstore.documents import ProcessorCard
from embedstore.encoders.checkpoint import Checkpoint, loading
from embedstore.errors import EncoderError, UnreadableImage, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from PIL.Image import Image

    from embedstore.shapes import Float32Array

Backend: TypeAlias = Literal["pil", "torchvision"]
Size: TypeAlias = tuple[int, int]

# transformers 5 picks torchvision wherever it is installed, and we depend on it. The two backends differ
# in pixels, so the choice is made here once instead of by what happens to be installed.
DEFAULT_BACKEND: Backend = "torchvision"

# Pixels of a picture after the processor's resize and before its crop: a line one pixel high grows with the
# square of the target edge.
MAX_RESIZED = 1 << 25
WARPED_FROM = 384


class Preparation:
    """Pictures to pixels, exactly as `processor(images=picture)` gives them. Thread-safe.

    `own_size`: what the checkpoint's processor gives where no other size is asked for, none where that is
    another one for each picture.
    """

    def __init__(self, processor: Any, card: ProcessorCard, *, own_size: Size | None) -> None:
        self.processor, self.card, self.own_size = processor, card, own_size
        self._pixels = _direct(processor)
        self._edge = _plan(processor).edge

    def __reduce__(self) -> tuple[Callable[..., Preparation], tuple[Any, ProcessorCard]]:
        """To another process as what it was made from."""
        return partial(Preparation, own_size=self.own_size), (self.processor, self.card)

    def __call__(self, picture: Image) -> Float32Array:
        """An RGB picture to `(3, h, w)` float32; `UnreadableImage` where a resize would fill the memory."""
        short, long = sorted(picture.size)
        resized = self._edge * self._edge * long // short
        if resized > MAX_RESIZED:
            raise UnreadableImage(
                f"too thin: {picture.width}×{picture.height} pixels with the shorter side at {self._edge} "
                f"would be {resized}, allowed {MAX_RESIZED}"
            )
        return self._pixels(picture if picture.mode == "RGB" else picture.convert("RGB"))


def load_preparation(
    checkpoint: Checkpoint, *, backend: str | None, image_size: int | Size | None
) -> Preparation:
    """Load the processor with its backend pinned; `image_size` scales its resize and crop together."""
    from transformers import AutoImageProcessor

    wanted = DEFAULT_BACKEND if backend is None else backend
    if wanted not in ("pil", "torchvision"):
        raise UsageError("unknown processor backend", found=wanted, allowed="pil, torchvision")
    with loading(checkpoint, "image processor"):
        processor = AutoImageProcessor.from_pretrained(
            checkpoint.source, backend=wanted, trust_remote_code=False, **checkpoint.arguments
        )
    if processor.backend != wanted:
        raise EncoderError(
            "the image processor has no such backend",
            where=checkpoint.model,
            found=f"{type(processor).__name__} with backend {processor.backend}",
            todo=f"add ?backend={processor.backend} to the encoder's name",
        )
    name = type(processor).__name__
    if hasattr(processor, "max_num_patches"):
        processor = _square(processor)
    own_size = _plan(processor).size
    if image_size is not None:
        processor = _resized(
            processor, (image_size, image_size) if isinstance(image_size, int) else image_size
        )
    return Preparation(processor, describe(processor, name=name, where=checkpoint.model), own_size=own_size)


def describe(processor: Any, *, name: str, where: str) -> ProcessorCard:
    """The card of a processor called `name`, every value read from the object itself."""
    plan = _plan(processor)
    size = plan.size
    if size is None:
        raise EncoderError(
            "the processor gives pixels of a different size for each picture",
            where=where,
            found=f"size={processor.size}, center crop {bool(processor.do_center_crop)}",
            todo="give a checkpoint whose processor has a fixed size, or set --image-size",
        )
    normalise = bool(processor.do_normalize)
    return ProcessorCard(
        class_name=name,
        backend=processor.backend,
        size=size,
        resize=plan.resize,
        crop=f"center={size[0]}x{size[1]}" if plan.cropped else None,
        interpolation=_interpolation(processor.resample),
        rescale=float(processor.rescale_factor) if processor.do_rescale else 1.0,
        mean=tuple(processor.image_mean) if normalise else (0.0, 0.0, 0.0),
        std=tuple(processor.image_std) if normalise else (1.0, 1.0, 1.0),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What a processor does to the shape of a picture.

    `size` of its pixels, none where that is another one for each picture; `edge` of the shorter side between
    resize and crop, 0 where the picture is not resized in proportion.
    """

    size: Size | None
    resize: str
    cropped: bool
    edge: int


def _plan(processor: Any) -> _Plan:
    size = processor.size if processor.do_resize else None
    edge = int((size.shortest_edge if size else None) or 0)
    if edge and getattr(processor, "crop_pct", None) is not None:
        # ConvNeXt: from 384 pixels on the picture is warped and nothing is cut off.
        if edge >= WARPED_FROM:
            return _Plan(size=(edge, edge), resize=f"exact={edge}x{edge}", cropped=False, edge=0)
        before = int(edge / processor.crop_pct)
        return _Plan(size=(edge, edge), resize=f"shortest_edge={before}", cropped=True, edge=before)
    if not size:
        resize, fixed = "none", None
    elif size.height and size.width:
        fixed = size.height, size.width
        resize = f"exact={size.height}x{size.width}"
    else:
        resize, fixed = ",".join(f"{key}={value}" for key, value in dict(size).items()), None
    if processor.do_center_crop:
        fixed = processor.crop_size.height, processor.crop_size.width
    return _Plan(size=fixed, resize=resize, cropped=bool(processor.do_center_crop), edge=edge)


def _square(processor: Any) -> Any:
    """The processor of SigLIP2 with as many patches as it allows, the same grid for every picture.

    It would keep each picture's proportions, and give each another number of tokens; this is what it does to
    a square one.
    """
    import transformers

    patch = int(processor.patch_size)
    side = patch * math.isqrt(processor.max_num_patches)
    backend = "Pil" if processor.backend == "pil" else ""
    kind = getattr(transformers, f"SiglipImageProcessor{backend}")
    kept = ("resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
    options = {name: getattr(processor, name) for name in kept}
    return kind(size={"height": side, "width": side}, **options)


def _interpolation(resample: Any) -> str:
    from PIL.Image import Resampling

    # Both backends fall back to bilinear where a processor names no filter, and both always antialias.
    filter_ = Resampling.BILINEAR if resample is None else resample
    name = (
        str(filter_.value) if isinstance(getattr(filter_, "value", None), str) else Resampling(filter_).name
    )
    return name.lower() if name.lower() == "nearest" else f"{name.lower()}+antialias"


def _resized(processor: Any, wanted: Size) -> Any:
    """The same processor for another output size; the shorter edge keeps its ratio to the crop."""
    now = _plan(processor).size
    if now == wanted:
        return processor
    if min(wanted) < 1:
        raise UsageError("an image size must be positive", found=wanted)
    if getattr(processor, "crop_pct", None) is not None:
        if wanted[0] != wanted[1]:
            raise UsageError("this processor makes square pictures only", found=f"{wanted[0]}x{wanted[1]}")
        return type(processor).from_dict(processor.to_dict() | {"size": {"shortest_edge": wanted[0]}})
    target = {"height": wanted[0], "width": wanted[1]}
    changes: dict[str, Any] = {"do_resize": True, "size": target}
    if processor.do_center_crop:
        changes["crop_size"] = target
        edge = processor.size.shortest_edge if processor.do_resize else None
        if edge and now is not None:
            ratio = max(wanted[0] / now[0], wanted[1] / now[1])
            changes["size"] = {"shortest_edge": round(edge * ratio)}
    return type(processor).from_dict(processor.to_dict() | changes)


def _direct(processor: Any) -> Callable[[Image], Float32Array]:
    """The processor's own steps with its options resolved once, where that gives the same pixels.

    The public call validates and copies some twenty options for each picture, groups pictures by size and
    lays each out anew: half as much time again as the bare image operations on a 256-pixel photograph. Each
    shortcut is proved on a few pictures here, and not used where it differs.
    """

    def slow(picture: Image) -> Float32Array:
        pixels = processor(images=picture, return_tensors="np")["pixel_values"][0]
        return np.ascontiguousarray(pixels, dtype=np.float32)

    options = {name: getattr(processor, name, None) for name in getattr(processor, "_valid_kwargs_names", ())}
    try:
        options = processor._standardize_kwargs(**options) | {"return_tensors": None}

        def fast(picture: Image) -> Float32Array:
            image = processor.process_image(picture, **options)
            pixels = processor._preprocess([image], **options)["pixel_values"][0]
            return np.ascontiguousarray(pixels, dtype=np.float32)

        wanted = [slow(picture) for picture in _probes()]
        shortcuts = (_bare(processor, options), fast) if processor.backend == "torchvision" else (fast,)
        for shortcut in shortcuts:
            if all(np.array_equal(shortcut(p), w) for p, w in zip(_probes(), wanted, strict=True)):
                return shortcut
    except (AttributeError, TypeError, KeyError):
        pass
    return slow


def _bare(processor: Any, options: Mapping[str, Any]) -> Callable[[Image], Float32Array]:
    """The image operations of a torchvision processor, on pixels as they lie in the picture."""
    import torch

    def shortcut(picture: Image) -> Float32Array:
        # Resizing takes colours side by side at half the time of planes; only the small result is laid out.
        image = torch.from_numpy(np.array(picture)).permute(2, 0, 1).unsqueeze(0)
        if options["do_resize"]:
            image = processor.resize(image, options["size"], resample=options["resample"])
        if options["do_center_crop"]:
            image = processor.center_crop(image, options["crop_size"])
        names = "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"
        pixels = processor.rescale_and_normalize(image.contiguous(), *(options[name] for name in names))
        return np.ascontiguousarray(pixels[0].numpy(), dtype=np.float32)

    return shortcut


def _probes() -> list[Image]:
    from PIL import Image

    sizes = (120, 90), (90, 120), (501, 640)
    noise = np.random.default_rng(0)
    return [Image.fromarray(noise.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]
