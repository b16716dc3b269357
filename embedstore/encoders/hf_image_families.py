"""The image architectures of transformers that are known: one line of the table each.

A family says how its class is loaded and how its output is read: which places of the last hidden state are
CLS tokens, whether it has passed a final norm, and where the library's own image embedding is.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# The pooled embedding in the words of the card. `cls`: the first token after the final norm; `mean`: of the
# patches; `image_embeds`: projected into the space that images and texts share; `mean+norm`: the mean of the
# patches, then the final norm; `attention`: a learnt query attends to the patches.
Pooling: TypeAlias = Literal["cls", "mean", "image_embeds", "mean+norm", "attention"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFamily:
    """How one architecture is loaded and read.

    `pooled`: `cls` and `mean` are taken from the tokens, anything else from the model's output. `cls`: tokens
    that stand first and are neither registers nor patches; `skip`: places before them that are not tokens.
    `norm`: last part of the name of the final norm of tokens; `passed`: whether the model's last hidden state
    has passed it; `normed`: whether tokens have in the end. `interpolate`: whether sizes other than the
    trained one must be asked for with an argument. `stride`: pixels a token where that is not its
    configuration's patch size. `positions`: how the model knows where a patch is. `patches`: whether it takes
    flat patches. `unused`: tensors that the forward pass never reads. `adapt`: what the configuration of a
    checkpoint changes.
    """

    model: str
    pooled: Pooling = "cls"
    cls: int = 1
    skip: int = 0
    norm: str | None = None
    passed: bool = True
    normed: bool = True
    interpolate: bool = False
    stride: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    patches: bool = False
    positions: Literal["learnt", "rotary", "none"] = "learnt"
    adapt: Callable[[ImageFamily, Any], ImageFamily] = lambda family, _: family


def _beit(family: ImageFamily, config: Any) -> ImageFamily:
    """Checkpoints with mean pooling keep their norm in the pooler: the tokens do not pass it."""
    return replace(family, pooled="mean+norm", norm=None, normed=False) if config.use_mean_pooling else family


def _siglip(family: ImageFamily, config: Any) -> ImageFamily:
    return family if config.vision_use_head else replace(family, pooled="mean")


_MASK = ("embeddings.mask_token",)
_NO_POOLER = {"add_pooling_layer": False}
_CLIP = ImageFamily(
    model="CLIPVisionModelWithProjection",
    pooled="image_embeds",
    norm="post_layernorm",
    passed=False,
    interpolate=True,
)
_SIGLIP = ImageFamily(
    model="SiglipVisionModel",
    pooled="attention",
    cls=0,
    norm="post_layernorm",
    interpolate=True,
    adapt=_siglip,
)
_SIGLIP2 = replace(_SIGLIP, model="Siglip2VisionModel", interpolate=False, patches=True)
_CONVNEXT = ImageFamily(
    model="ConvNextModel", pooled="mean+norm", cls=0, stride=32, normed=False, positions="none"
)

# Model type, or the class that a checkpoint was saved from where that decides, to the family.
FAMILIES: Mapping[str, ImageFamily] = {
    "beit": ImageFamily(model="BeitModel", norm="layernorm", unused=_MASK, adapt=_beit),
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "CLIPVisionModel": replace(_CLIP, model="CLIPVisionModel", pooled="cls"),
    "convnext": ImageFamily(
        model="ConvNextModel", pooled="mean+norm", cls=0, stride=32, normed=False, positions="none"
    ),
    "convnextv2": ImageFamily(
        model="ConvNextV2Model", pooled="mean+norm", cls=0, stride=32, normed=False, positions="none"
    ),
    "deit": ImageFamily(model="DeiTModel", cls=2, norm="layernorm", options=_NO_POOLER, interpolate=True),
    "dinov2": ImageFamily(model="Dinov2Model", norm="layernorm", unused=_MASK),
    "dinov2_with_registers": ImageFamily(model="Dinov2WithRegistersModel", norm="layernorm", unused=_MASK),
    "dinov3_convnext": ImageFamily(
        model="DINOv3ConvNextModel", pooled="mean+norm", cls=0, skip=1, stride=32, positions="none"
    ),
    "dinov3_vit": ImageFamily(model="DINOv3ViTModel", norm="norm", unused=_MASK, positions="rotary"),
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "siglip2": _SIGLIP2,
    "siglip2_vision_model": _SIGLIP2,
    "vit": ImageFamily(model="ViTModel", norm="layernorm", options=_NO_POOLER, interpolate=True),
}
