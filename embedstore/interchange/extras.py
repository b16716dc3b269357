"""Libraries that only some formats need."""

from __future__ import annotations

import importlib
from typing import Any

from embedstore.errors import MissingExtraError

_PACKAGES = {"h5py": "h5py", "datasets": "datasets", "lance": "pylance"}


def need(module: str) -> Any:
    """Import an optional library; `MissingExtraError` with the install line where it is absent."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingExtraError(
            f"this format needs the package {_PACKAGES[module]!r}",
            todo="pip install 'embedstore[interchange]'",
        ) from None
