"""From the model's tensors to what the policy stores; plain formats are cast on the device that computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from embedstore.store.coding.codecs import FLOATS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from embedstore.documents import ArrayName
    from embedstore.policies import Number
    from embedstore.shapes import AnyArray, IntArray
    from embedstore.store.coding.coder import Coder

_DTYPES: dict[Number, torch.dtype] = {"float16": torch.float16, "float32": torch.float32}


def to_stored(
    tensors: Mapping[ArrayName, Tensor], coder: Coder, *, rows: IntArray
) -> dict[ArrayName, AnyArray]:
    """Tensors `(b, …)` of table `rows (b,)` to stored arrays on the host, scales and weights included.

    Text tokens `(sum of lengths, d)` come with `rows` repeated and nothing else. Raises `StorageValueError`
    that names the row, the value and the policy that would hold it.
    """
    number = coder.policy.number
    if not coder.is_plain or number not in _DTYPES:
        return coder.encode({name: t.float().cpu().numpy() for name, t in tensors.items()}, rows=rows)
    made: dict[ArrayName, AnyArray] = {}
    for name, values in tensors.items():
        stored = values.to(_DTYPES[number])
        if bool(torch.isfinite(stored).all()):
            made[name] = stored.cpu().numpy()
        else:
            wide = values.float().cpu().numpy()
            made[name] = FLOATS[number].encode(wide, array=name, rows=rows)
    return made
