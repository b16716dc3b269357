"""A fitted head as ONNX graphs: exported, run in onnxruntime, compared with torch, then put in place."""

from __future__ import annotations

import copy
import io
import json
import logging
import os
import shutil
import tempfile
import warnings
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from embedstore.errors import EmbedstoreError, HeadError, MissingExtraError, UsageError
from embedstore.model.fitted import load_head
from embedstore.policies import parse_policy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from os import PathLike

    from embedstore.documents import HeadConfig
    from embedstore.heads.base import Head
    from embedstore.model.fitted import FittedHead

OPSET = 20
OPSETS = range(18, 24)
# A protobuf file ends at 2 GiB; the graph and its metadata are small beside the weights.
MOST_WEIGHT_BYTES = (2 << 30) - (16 << 20)
TOLERANCE = 1e-4

Side: TypeAlias = Literal["image", "text", "patches"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxGraph:
    """One exported file; `difference`: the largest between onnxruntime and torch over all that was tried."""

    side: Side
    path: str
    inputs: dict[str, tuple[str | int, ...]]
    output: tuple[str | int, ...]
    opset: int
    nbytes: int
    difference: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class _Images(nn.Module):
    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(
        self, tokens: Tensor, pooled: Tensor, prefix: Tensor | None = None, weights: Tensor | None = None
    ) -> Tensor:
        return self.head.embed_image(tokens, prefix, pooled, weights)


class _Patches(nn.Module):
    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, tokens: Tensor, pooled: Tensor, prefix: Tensor | None = None) -> Tensor:
        return self.head.embed_patches(tokens, prefix, pooled)


class _Texts(nn.Module):
    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        # Not even a NaN in the padding comes through.
        clean = torch.where(mask.unsqueeze(2), tokens, torch.zeros((), dtype=tokens.dtype))
        return self.head.embed_padded(clean, mask)


class _PooledTexts(nn.Module):
    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, pooled: Tensor) -> Tensor:
        return self.head.embed_padded(pooled.unsqueeze(1), torch.ones_like(pooled[:, :1], dtype=torch.bool))


def export_onnx(
    head: str | PathLike[str] | FittedHead,
    out: str | PathLike[str],
    *,
    opset: int = OPSET,
    patches: bool = False,
    overwrite: bool = False,
) -> list[OnnxGraph]:
    """Write `image.onnx` and `text.onnx` (and `patches.onnx`) into the folder `out`, run in onnxruntime.

    Inputs are float32 with free batch and token axes: `tokens (b, t, d)`, `prefix (b, p, d)`,
    `pooled (b, w)`, `weights (b, t)` where the head was fitted on merged tokens; of texts `tokens (b, l, d)`
    and `mask (b, l)` bool, or `pooled (b, w)`. A graph has those that its head reads. The output is
    `embedding (b, e)`, unit vectors, of patches `(b, t, e)`. Nothing is left in `out` unless every file
    agrees with torch to 1e-4.
    `MissingExtraError` without onnx, onnxscript or onnxruntime; `HeadError` for a head that has no such form.
    """
    libraries()
    if opset not in OPSETS:
        raise UsageError(
            "no such opset here", where="opset", found=opset, allowed=f"{OPSETS[0]} to {OPSETS[-1]}"
        )
    fitted = load_head(head) if isinstance(head, (str, os.PathLike)) else head
    fitted = replace(fitted, module=copy.deepcopy(fitted.module).cpu(), device=torch.device("cpu"))
    place = Path(out)
    sides: list[Side] = ["image", "text", *(["patches"] if patches else [])]  # type: ignore[list-item]  # mypy widens
    there = [f"{side}.onnx" for side in sides if (place / f"{side}.onnx").exists()]
    if there and not overwrite:
        raise UsageError(
            "files are already here",
            where=place,
            found=", ".join(there),
            todo="replace them with --overwrite",
        )
    _refuse_size(fitted)
    made = not place.exists()
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".onnx-", dir=place) as draft:
        try:
            graphs = [_graph(fitted, side, Path(draft), opset) for side in sides]
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            if made:
                with suppress(OSError):
                    place.rmdir()
            raise
        for graph in graphs:
            (Path(draft) / graph.path).replace(place / graph.path)
    return graphs


def libraries() -> tuple[Any, Any]:
    """The modules onnx and onnxruntime; `MissingExtraError` where one is absent."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as absent:
        raise MissingExtraError(
            "the export to ONNX needs onnx, onnxscript and onnxruntime",
            found=f"no module {absent.name!r}",
            todo="pip install 'embedstore[onnx]'",
        ) from None
    return onnx, onnxruntime


def _graph(fitted: FittedHead, side: Side, folder: Path, opset: int) -> OnnxGraph:
    onnx, onnxruntime = libraries()
    module, example, axes = _form(fitted, side)
    path = folder / f"{side}.onnx"
    model = _exported(module, example, axes, opset=opset)
    _drop_unused_inputs(model.graph)
    onnx.helper.set_model_props(model, _metadata(fitted, side))
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    worst = max(_difference(fitted, side, session, batch, places) for batch, places in _trials(fitted, side))
    if not worst <= TOLERANCE:
        raise HeadError(
            "the exported graph does not agree with the head",
            where=path.name,
            found=f"a difference of {worst:.2g}",
            allowed=f"{TOLERANCE:g}",
        )
    return OnnxGraph(
        side=side,
        path=path.name,
        inputs={put.name: tuple(put.shape) for put in session.get_inputs()},
        output=tuple(session.get_outputs()[0].shape),
        opset=opset,
        nbytes=path.stat().st_size,
        difference=worst,
    )


def _form(fitted: FittedHead, side: Side) -> tuple[nn.Module, dict[str, Tensor], dict[str, Any]]:
    """The module of a side, example inputs by name, and which of their axes are free."""
    module = {
        "image": _Images, "patches": _Patches,
        "text": _PooledTexts if fitted.config.text_pooling == "pooled" else _Texts,
    }[side](fitted.module)  # fmt: skip
    example = _inputs(fitted.config, side, batch=3, places=_places(fitted.config, side, 5))
    free = {
        "tokens": {0: "batch", 1: "tokens"}, "mask": {0: "batch", 1: "tokens"},
        "weights": {0: "batch", 1: "tokens"}, "prefix": {0: "batch"}, "pooled": {0: "batch"},
    }  # fmt: skip
    return module.eval(), example, {name: free[name] for name in example}


def _places(config: HeadConfig, side: Side, otherwise: int) -> int:
    grid = config.image_card.grid
    return otherwise if side == "text" or grid is None else grid[0] * grid[1]


def _inputs(config: HeadConfig, side: Side, *, batch: int, places: int) -> dict[str, Tensor]:
    """Random inputs, the same for the same sizes; texts have 1 to `places` tokens, the first as many."""
    g = torch.Generator().manual_seed(batch * 1000 + places)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    if side == "text":
        if config.text_pooling == "pooled":
            return {"pooled": noise(batch, config.text_width)}
        lengths = torch.randint(1, places + 1, (batch,), generator=g)
        lengths[0] = places
        mask = torch.arange(places) < lengths.unsqueeze(1)
        return {"tokens": noise(batch, places, config.text_width), "mask": mask}
    card = config.image_card
    found = {
        "tokens": noise(batch, places, config.image_width),
        "pooled": noise(batch, card.pooled_width),
    }
    if card.prefix:
        found["prefix"] = noise(batch, card.prefix, config.image_width)
    if side == "image" and _weighted(config):
        found["weights"] = torch.softmax(noise(batch, places), dim=1)
    return found


def _weighted(config: HeadConfig) -> bool:
    return config.image_shrink is not None and parse_policy(config.image_shrink).weighted(
        config.image_card.grid
    )


def _exported(
    module: nn.Module, example: Mapping[str, Tensor], axes: Mapping[str, Any], *, opset: int
) -> Any:
    try:
        with _quiet(), torch.no_grad():
            # Of the ways that torch.onnx tries one after the other, the first.
            free = {name: dict.fromkeys(places, torch.export.Dim.DYNAMIC) for name, places in axes.items()}
            traced = torch.export.export(module, (), dict(example), dynamic_shapes=free, strict=False)
            program = torch.onnx.export(
                traced,
                dynamic_shapes=dict(axes),
                input_names=list(example),
                output_names=["embedding"],
                opset_version=opset,
                dynamo=True,
                verbose=False,
                external_data=False,
            )
    except Exception as bad:
        raise _refusal(bad) from bad
    if program is None:
        raise HeadError("torch exported nothing")
    return program.model_proto


def _refusal(bad: BaseException) -> EmbedstoreError:
    """What stands in the way, in our words where they are ours."""
    cause: BaseException | None = bad
    while cause is not None:
        if isinstance(cause, EmbedstoreError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return HeadError(
        "this head has no ONNX form",
        found=next((line.strip() for line in str(bad).splitlines() if line.strip()), type(bad).__name__),
        todo="write `embed_padded` without ragged tensors, and nothing that ONNX has no operator for",
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its steps and warns of its own insides."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _drop_unused_inputs(graph: Any) -> None:
    """What the head does not read need not be given."""
    used = {name for node in graph.node for name in node.input} | {put.name for put in graph.output}
    for put in [put for put in graph.input if put.name not in used]:
        graph.input.remove(put)


def _metadata(fitted: FittedHead, side: Side) -> dict[str, str]:
    config = fitted.config
    card = config.text_card if side == "text" else config.image_card
    return {
        "embedstore.side": side,
        "embedstore.head": config.head,
        "embedstore.head_sha256": fitted.sha256,
        "embedstore.weights_sha256": str(config.weights_sha256),
        "embedstore.logit_scale": repr(1 / config.temperature),
        "embedstore.config": json.dumps(
            config.model_dump(mode="json", exclude={"image_card", "text_card"}), ensure_ascii=False
        ),
        "embedstore.card": json.dumps(card.model_dump(mode="json"), ensure_ascii=False),
    }


def _trials(fitted: FittedHead, side: Side) -> list[tuple[int, int]]:
    """Batch sizes and numbers of tokens, others than the example's among them."""
    config = fitted.config
    if side == "text":
        limit = config.text_card.tokenizer.max_length if config.text_card.tokenizer else 32
        return [(1, 1), (5, min(12, limit)), (9, min(77, limit))]
    whole = _places(config, side, 16)
    fewer = parse_policy(config.image_shrink) if config.image_shrink else None
    stored = whole if fewer is None else fewer.tokens(whole, config.image_card.grid)
    return [(1, stored), (4, stored), (2, stored + 3), (3, 1)]


def _difference(fitted: FittedHead, side: Side, session: Any, batch: int, places: int) -> float:
    """Between onnxruntime and the head as it is used everywhere else, on the same random inputs."""
    given = _inputs(fitted.config, side, batch=batch, places=places)
    with torch.inference_mode():
        if side == "image":
            wanted = fitted.module.embed_image(**given)
        elif side == "patches":
            wanted = fitted.module.embed_patches(**given)
        else:
            empty = torch.zeros(0)
            wanted = fitted.embed_encoded(*(given.get(name, empty) for name in ("tokens", "mask", "pooled")))
    names = {put.name for put in session.get_inputs()}
    feed = {name: x.numpy() for name, x in given.items() if name in names}
    (found,) = session.run(None, feed)
    return float(np.abs(found - wanted.numpy()).max())


def _refuse_size(fitted: FittedHead) -> None:
    nbytes = sum(p.numel() * 4 for p in fitted.module.parameters())
    if nbytes > MOST_WEIGHT_BYTES:
        raise HeadError("the head is too large for one ONNX file", found=f"{nbytes} bytes", allowed="2 GiB")
