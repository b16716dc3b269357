"""From the model's tensors to the stored dtype, on the device that computed them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from embedstore.store.codecs import FLOATS

if TYPE_CHECKING:
    from torch import Tensor

    from embedstore.documents import ArrayName, PolicyName
    from embedstore.shapes import AnyArray, IntArray

_DTYPES: dict[PolicyName, torch.dtype] = {"float16": torch.float16, "float32": torch.float32}


def to_stored(values: Tensor, policy: PolicyName, *, rows: IntArray, array: ArrayName) -> AnyArray:
    """Cast `(b, …)` on its device and bring it to the host in the policy's dtype.

    `rows` `(b,)` are rows of the table. Raises `StorageValueError` that names the row, the value and the
    policy that would hold it.
    """
    stored = values.to(_DTYPES[policy])
    if not bool(torch.isfinite(stored).all()):
        return FLOATS[policy].encode(values.float().cpu().numpy(), array=array, rows=rows)
    return stored.cpu().numpy()
