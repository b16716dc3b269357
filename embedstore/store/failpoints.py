"""Named places before and after every effect of the writer, where a test may stop the process.

A name is `"{before|after} {write|flush|rename|link|unlink|flush-folder|remove} {file}"`.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Hook: TypeAlias = "Callable[[str], None]"

_hooks: list[Hook] = []


@contextmanager
def effect(step: str, path: Path) -> Iterator[None]:
    """Wrap one effect on `path`; while nobody listens it costs one look at an empty list."""
    if not _hooks:
        yield
        return
    name = f"{step} {'/'.join(path.parts[-3:])}"
    for hook in _hooks:
        hook(f"before {name}")
    yield
    for hook in _hooks:
        hook(f"after {name}")


@contextmanager
def listening(hook: Hook) -> Iterator[None]:
    """Call `hook` with every name that is passed; it may raise, or end the process."""
    _hooks.append(hook)
    try:
        yield
    finally:
        _hooks.remove(hook)
