"""The optional packages that pages need."""

from __future__ import annotations

import importlib.util
from contextlib import contextmanager
from typing import TYPE_CHECKING

from embedstore.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator

NEEDED = ("matplotlib", "jinja2")


def check_extra() -> None:
    """`MissingExtraError` before any work where a package that pages need is absent."""
    with needs_extra():
        for name in NEEDED:
            if importlib.util.find_spec(name) is None:
                raise ModuleNotFoundError(name=name)


@contextmanager
def needs_extra() -> Iterator[None]:
    """Turn a missing package of the extra `demo` into an error with the install line."""
    try:
        yield
    except ModuleNotFoundError as bad:
        raise MissingExtraError(
            f"pages need the package {bad.name}, which is not installed",
            todo="pip install 'embedstore[demo]'",
        ) from None
