"""The optional packages that pages need."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from embedstore.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator


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
