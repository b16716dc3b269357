"""`timm:` image models of timm whose features are tokens or maps, by name, hub id, folder or weights file.

Tokens are what `forward_features` gives, without CLS and registers, row-major; a map `(c, h, w)` is read as
`h × w` tokens. Pooled is `forward_head(…, pre_logits=True)`: what timm itself gives for `num_classes=0`.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from embedstore.documents import ProcessorCard
from embedstore.encoders import checkpoint as checkpoints
from embedstore.encoders.base import ImageBatch
from embedstore.encoders.checkpoint import Checkpoint, loading
from embedstore.encoders.device import pick_device, pick_dtype
from embedstore.encoders.image_model import ImageModel, ModelImageEncoder
from embedstore.encoders.lines import Line
from embedstore.encoders.transforms import Transform, keep_ratio_rule, refuse_border
from embedstore.errors import EncoderError, MissingExtraError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from embedstore.encoders.base import ImageEncoder
    from embedstore.encoders.hf_processor import Size

_HUB = "hf-hub:"


class Timm:
    """The encoder kind `timm`: images only."""

    def lines(self) -> list[Line]:
        """Its lines of the table in the docs."""
        return [
            Line(
                spec="`timm:` image, token models",
                tokens="patches + what they prepend: CLS, distillation, registers",
                width="`num_features`",
                pooled="`pre_logits`",
                tested="`vit_tiny_patch16_224`, `vit_small_patch14_reg4_dinov2`, `test_vit3`, "
                "`eva02_tiny_patch14_224`, `vit_small_patch16_dinov3`",
            ),
            Line(
                spec="`timm:` image, map models",
                tokens="places of the last map",
                width="`num_features`",
                pooled="`pre_logits`",
                tested="`swin_tiny_patch4_window7_224`, `test_convnext`, `test_resnet`",
            ),
        ]

    def image(
        self,
        name: str,
        *,
        device: str = "auto",
        image_size: int | Size | None = None,
        dtype: str | None = None,
        checkpoint: str | None = None,
        revision: str | None = None,
    ) -> ImageEncoder:
        """Load a model by its name in timm, hub id (`timm/vit_…`, `hf-hub:org/name`) or folder.

        `checkpoint`: a file with weights (safetensors, pth, npz) in place of the published ones.
        `MissingExtraError` without timm.
        """
        library()
        where = pick_device(device)
        found, arguments = locate(name, revision=revision, file=checkpoint)
        model = _load(found, arguments)
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        own = getattr(getattr(model, "patch_embed", None), "grid_size", None)
        config = _data_config(found, model, size)
        transform = transform_of(config, where=found.model)
        loaded = described(found, model, size=config["input_size"][1:])
        return ModelImageEncoder(
            found,
            replace(loaded, positions=fitted_positions(model, own=own, grid=loaded.grid)),
            transform,
            device=where,
            dtype=pick_dtype(dtype, where),
        )


def library() -> Any:
    """The library itself; `MissingExtraError` where it is not installed."""
    try:
        import timm
    except ModuleNotFoundError as absent:
        raise MissingExtraError(
            "timm: needs a package that is not installed", todo="pip install 'embedstore[timm]'"
        ) from absent
    return timm


def locate(name: str, *, revision: str | None, file: str | None) -> tuple[Checkpoint, dict[str, Any]]:
    """What a name means, and the arguments of `create_model` for it."""
    timm = library()
    folder = Path(name).expanduser()
    if folder.is_dir():
        _refuse(revision, "a local folder has no revisions", name)
        _refuse(file, "a folder has its own weights", name, option="checkpoint")
        found = Checkpoint(
            source=f"local-dir:{folder}", model=folder.resolve().name, revision=None, local=True
        )
        return found, {}
    if name.startswith(_HUB) or "/" in name:
        _refuse(file, "a hub id has its own weights", name, option="checkpoint")
        hub = checkpoints.locate(name.removeprefix(_HUB), revision)
        source = f"{_HUB}{hub.source}" + (f"@{revision}" if revision else "")
        return replace(hub, source=source), {}
    _refuse(revision, "only hub ids have revisions", name)
    if not timm.is_model(name.partition(".")[0]):
        near = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), n=3, cutoff=0.5)
        raise UnknownNameError(
            "there is no such model in timm, and no such folder",
            where=f"timm:{name}",
            todo=f"did you mean {', '.join(near)}?" if near else "timm.list_models() has the names",
        )
    if file is None:
        return Checkpoint(source=name, model=name, revision=None, local=False), {}
    weights = Path(file).expanduser()
    if not weights.is_file():
        raise EncoderError("there is no such file of weights", where=f"timm:{name}", found=file)
    # npz files are of other libraries: the model's own code reads them
    overlay = {"file": str(weights), "custom_load": weights.suffix == ".npz"}
    found = Checkpoint(source=name, model=weights.name, revision=None, local=True)
    return found, {"pretrained_cfg_overlay": overlay}


def _refuse(value: object, problem: str, name: str, *, option: str = "revision") -> None:
    if value is not None:
        raise UsageError(problem, where=f"timm:{name}", found=f"{option}={value}")


def _load(checkpoint: Checkpoint, arguments: Mapping[str, Any]) -> Any:
    timm = library()
    with _missing_tensors() as missing, loading(checkpoint, "model"):
        model = timm.create_model(checkpoint.source, pretrained=True, num_classes=0, **arguments)
    if missing:
        raise EncoderError(
            f"the checkpoint lacks tensors of {type(model).__name__}",
            where=checkpoint.model,
            found="; ".join(one if len(one) <= 200 else f"{one[:200]}…" for one in missing),
            todo="give a checkpoint that was saved whole from this architecture",
        )
    return model.float()


@contextlib.contextmanager
def _missing_tensors() -> Iterator[list[str]]:
    """What timm logs about tensors that it did not find: it leaves those random, and goes on."""
    found: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said = record.getMessage()
            if said.startswith("Missing keys"):
                found.append(said.partition(" discovered")[0])

    log, listener = logging.getLogger("timm.models._builder"), Listener()
    level, propagate = log.level, log.propagate
    log.addHandler(listener)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield found
    finally:
        log.removeHandler(listener)
        log.setLevel(level)
        log.propagate = propagate


def _data_config(checkpoint: Checkpoint, model: Any, size: Size | None) -> dict[str, Any]:
    """The model's own preprocessing, for `size` where one is asked for; the model is made ready for it."""
    from timm.data import resolve_model_data_config

    config: dict[str, Any] = resolve_model_data_config(model)
    if config["input_size"][0] != 3:
        raise EncoderError(
            "the model does not take RGB pictures", where=checkpoint.model, found=config["input_size"]
        )
    if size is None or tuple(config["input_size"][1:]) == size:
        return config
    refuse_border(size, patch_of(model), where=checkpoint.model)
    if hasattr(model, "set_input_size"):
        try:
            model.set_input_size(img_size=size)
        except (AssertionError, ValueError) as bad:
            raise UsageError(
                "the model cannot take pictures of this size",
                where=checkpoint.model,
                found=f"{size[0]}x{size[1]}: {bad}",
            ) from bad
    elif model.pretrained_cfg.get("fixed_input_size"):
        raise UsageError(
            "this model takes pictures of one size only",
            where=checkpoint.model,
            found=f"{size[0]}x{size[1]}",
            allowed="{1}x{2}".format(*config["input_size"]),
        )
    return config | {"input_size": (3, *size)}


def fitted_positions(model: Any, *, own: Size | None, grid: Size) -> str | None:
    """How a model that was made for the grid `own` knows where patches are in another one."""
    if own is None or tuple(own) == grid:
        return None
    if isinstance(getattr(model, "pos_embed", None), torch.Tensor):
        return f"interpolated from {own[0]}x{own[1]}"
    return "rotary" if getattr(model, "rope", None) is not None else None


def patch_of(model: Any) -> int | Size:
    """The size of a model's patches, pixels; 1 where it has none."""
    found: int | Size = getattr(getattr(model, "patch_embed", None), "patch_size", 1)
    return found


def transform_of(config: Mapping[str, Any], *, where: str) -> Transform:
    """The library's transform for inference, and its card."""
    from timm.data import create_transform

    size: Size = tuple(config["input_size"][1:])
    target = math.floor(size[0] / config["crop_pct"]), math.floor(size[1] / config["crop_pct"])
    rules = {
        "center": keep_ratio_rule(size, target),
        "squash": f"exact={target[0]}x{target[1]}",
        "border": f"inside={target[0]}x{target[1]}",
    }
    mode = config["crop_mode"]
    if mode not in rules or config["interpolation"] == "random":
        raise EncoderError("the model's preprocessing is not known", where=where, found=dict(config))
    card = ProcessorCard(
        class_name="transforms_imagenet_eval",
        backend="timm",
        size=size,
        resize=rules[mode],
        crop=f"{mode}={size[0]}x{size[1]}",
        interpolation=f"{config['interpolation']}+antialias",
        rescale=1 / 255,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
    return Transform(create_transform(**config), card, edge=max(target) if mode == "center" else None)


def described(checkpoint: Checkpoint, model: Any, *, size: Size) -> ImageModel:
    """How this model is read; `EncoderError` where its features are neither tokens nor maps."""
    reader = FeatureReader(model, size=size, where=checkpoint.model)
    return ImageModel(
        model=model,
        read=reader,
        grid=reader.grid,
        used=model.state_dict().values(),
        library="timm",
        distribution="timm",
        architecture=type(model).__name__,
        pooling="pre_logits" + (f"-{pool}" if (pool := _pool(model)) else ""),
        final_norm=is_normed(model),
        registers=reader.registers,
    )


class FeatureReader:
    """Pixels `(b, 3, h, w)` to the features of a timm model as patches, prefix and pooled embedding."""

    def __init__(self, model: Any, *, size: Size, where: str) -> None:
        self.model = model
        self._channels_last = str(getattr(model, "output_fmt", "")).endswith("NHWC")
        with torch.inference_mode():
            try:
                features = model.eval().forward_features(torch.zeros(1, 3, *size))
                shape = tuple(features.shape)
            except (AttributeError, TypeError, RuntimeError, AssertionError) as bad:
                raise _strange(model, where, f"{type(bad).__name__}: {bad}") from bad
        self.prefix = int(getattr(model, "num_prefix_tokens", 0)) if len(shape) == 3 else 0
        if len(shape) == 4:
            width = shape[3] if self._channels_last else shape[1]
            self.grid: Size = (shape[1], shape[2]) if self._channels_last else (shape[2], shape[3])
            fits = width == model.num_features
        else:
            self.grid = _grid(model, shape[1] - self.prefix, size) if len(shape) == 3 else (0, 0)
            fits = shape == (1, self.prefix + math.prod(self.grid), model.num_features)
        if not fits:
            raise _strange(model, where, f"features of shape {shape}")
        self.registers = _registers(model) if self.prefix else 0

    def __call__(self, batch: Tensor) -> ImageBatch:
        """Features of one batch."""
        features = self.model.forward_features(batch)
        pooled = self.model.forward_head(features, pre_logits=True)
        return self.split(features, pooled)

    def split(self, features: Tensor, pooled: Tensor) -> ImageBatch:
        """Raw features and their pooled embedding as a batch of patches."""
        if features.ndim == 4:
            features = features.flatten(1, 2) if self._channels_last else features.flatten(2).transpose(1, 2)
        prefix = features[:, : self.prefix] if self.prefix else None
        return ImageBatch(tokens=features[:, self.prefix :], prefix=prefix, pooled=pooled)


def _registers(model: Any) -> int:
    stated = getattr(model, "num_reg_tokens", None)
    learnt = getattr(model, "reg_token", None)
    return int(stated) if stated is not None else 0 if learnt is None else int(learnt.shape[1])


def _grid(model: Any, places: int, size: Size) -> Size:
    """Rows and columns of `places` patches: the model's own, or those of the picture's shape."""
    stated = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if stated is not None and stated[0] * stated[1] == places:
        return int(stated[0]), int(stated[1])
    rows = max(1, round(math.sqrt(max(1, places) * size[0] / size[1])))
    return rows, places // rows


def _pool(model: Any) -> str:
    for holder in (model, getattr(model, "head", None)):
        pool = getattr(holder, "global_pool", None)
        name = pool if isinstance(pool, str) else getattr(pool, "pool_type", None)
        if isinstance(name, str) and name:
            return name
    return ""


def is_normed(model: Any) -> bool:
    """Whether `forward_features` ends with a norm: heads of other models normalise after pooling."""
    norm = getattr(model, "norm", None)
    return isinstance(norm, torch.nn.Module) and not isinstance(norm, torch.nn.Identity)


def _strange(model: Any, where: str, found: str) -> EncoderError:
    return EncoderError(
        f"the features of {type(model).__name__} are neither tokens nor maps",
        where=where,
        found=found,
        todo="wrap the model yourself: python:module:Class, docs/encoders.md",
    )
