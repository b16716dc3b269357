"""Names to objects: exact match, lazy import, entry points, and a hint when a name is unknown."""

from __future__ import annotations

import difflib
import importlib
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from embedstore.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Registry:
    """A table of `name -> "module:attribute"`, extended by installed entry points of `group`.

    Nothing is imported before `load`; a name of the table cannot be replaced by an entry point.
    """

    def __init__(self, kind: str, table: Mapping[str, str], group: str | None = None) -> None:
        self.kind, self.group, self._table = kind, group, dict(table)

    def _targets(self) -> dict[str, str]:
        found = {e.name: e.value for e in entry_points(group=self.group)} if self.group else {}
        return found | self._table

    def names(self) -> list[str]:
        """Every known name, sorted."""
        return sorted(self._targets())

    def __contains__(self, name: str) -> bool:
        return name in self._targets()

    def load(self, name: str) -> Any:
        """Import and return what `name` stands for; `UnknownNameError` with the nearest name otherwise."""
        targets = self._targets()
        if name not in targets:
            near = difflib.get_close_matches(name, targets, n=1)
            raise UnknownNameError(
                f"unknown {self.kind} {name!r}",
                allowed=", ".join(sorted(targets)),
                todo=f"did you mean {near[0]!r}?" if near else None,
            )
        module, _, attribute = targets[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
