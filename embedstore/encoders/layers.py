"""Hidden states of chosen layers of a frozen model, seen while one forward pass runs."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import torch

from embedstore.errors import EncoderError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

LAST = -1


class _EnoughError(Exception):
    """Everything that was asked for has been seen; the rest of the pass is not run."""


class Layers:
    """Which layers are wanted, and their hidden states during a pass. Safe in several threads.

    Layer 0 is what enters the first block, layer k what leaves block k, before the model's final norm; the
    last one is always `LAST`, which stands for the output of the model itself and is not looked at here.
    """

    def __init__(self, model: Any, wanted: Sequence[int], *, where: str) -> None:
        """`wanted`: as a user counts, from the front or (negative) from the back."""
        blocks = next((m for m in model.modules() if isinstance(m, torch.nn.ModuleList)), None)
        if blocks is None:
            raise EncoderError("the model has no list of blocks", where=where, found=type(model).__name__)
        self.count = len(blocks)
        self.numbers = tuple(self._number(layer, where) for layer in wanted)
        if len(set(self.numbers)) < len(self.numbers):
            raise UsageError(
                f"a layer is listed twice: the model has {self.count} layers, and -1 is layer {self.count}",
                where=where,
                found=",".join(map(str, wanted)),
            )
        self._seen = threading.local()
        self._enough = None if LAST in self.numbers else max(self.numbers)
        for number in self.numbers:
            if number == 0:
                blocks[0].register_forward_pre_hook(self._entering, with_kwargs=True)
            elif number != LAST:
                blocks[number - 1].register_forward_hook(self._leaving(number))

    def _number(self, layer: int, where: str) -> int:
        place = layer if layer >= 0 else self.count + 1 + layer
        if not 0 <= place <= self.count:
            raise UsageError(
                "the model has no such layer",
                where=where,
                found=layer,
                allowed=f"0 to {self.count}, or -{self.count + 1} to -1",
            )
        return LAST if place == self.count else place

    def _entering(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._see(0, args[0] if args else kwargs["hidden_states"])

    def _leaving(self, number: int) -> Any:
        return lambda _, __, output: self._see(number, output[0] if isinstance(output, tuple) else output)

    def _see(self, number: int, hidden: torch.Tensor) -> None:
        found = getattr(self._seen, "found", None)
        if found is not None:
            found[number] = hidden
            if number == self._enough:
                raise _EnoughError

    def run(self, model: Any, **inputs: Any) -> tuple[Any, dict[int, torch.Tensor]]:
        """One forward pass: the model's output (none where the last layer is not wanted), and the others."""
        found: dict[int, torch.Tensor] = {}
        self._seen.found = found
        try:
            return model(**inputs), found
        except _EnoughError:
            return None, found
        finally:
            self._seen.found = None
