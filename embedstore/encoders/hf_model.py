"""What images and texts share in loading a model of transformers: its family, and its frozen weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import torch

from embedstore.encoders.checkpoint import Checkpoint, loading
from embedstore.errors import EncoderError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

F = TypeVar("F")


def read_config(checkpoint: Checkpoint) -> Any:
    """The checkpoint's transformers configuration."""
    from transformers import AutoConfig

    with loading(checkpoint, "configuration"):
        return AutoConfig.from_pretrained(checkpoint.source, trust_remote_code=False, **checkpoint.arguments)


def choose_family(checkpoint: Checkpoint, config: Any, families: Mapping[str, F], what: str) -> F:
    """The family of a checkpoint: by the class it was saved from, else by its model type."""
    for key in [*(config.architectures or ()), config.model_type]:
        if key in families:
            return families[key]
    raise EncoderError(
        f"this is not {what} of a known family",
        where=checkpoint.model,
        found=f"model type {config.model_type!r}, saved from {config.architectures}",
        allowed=", ".join(sorted(families)),
        todo="add one line to the table of families, or try another kind of encoder",
    )


def load_frozen(
    checkpoint: Checkpoint, class_name: str, *, options: Mapping[str, Any], unused: Collection[str] = ()
) -> Any:
    """Load one class of transformers in float32, for inference; every tensor that is used must be there.

    `unused` names tensors that the forward pass never reads.
    """
    import transformers

    with loading(checkpoint, "model"):
        model, info = getattr(transformers, class_name).from_pretrained(
            checkpoint.source,
            dtype=torch.float32,
            output_loading_info=True,
            **checkpoint.arguments,
            **options,
        )
    missing = sorted(set(info["missing_keys"]) - set(unused))
    if missing:
        raise EncoderError(
            f"the checkpoint lacks tensors of {class_name}",
            where=checkpoint.model,
            found=f"{len(missing)} missing: {', '.join(missing[:5])}",
            todo="give a checkpoint that was saved whole from this architecture",
        )
    return model.eval().requires_grad_(requires_grad=False)
