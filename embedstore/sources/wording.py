"""The options behind `?` in the word of a source: `webdataset:PATTERN?split=train&ids=shard`."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from embedstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_ONE = r"[A-Za-z_][A-Za-z0-9_]*=[^&?]*"
_OPTIONS = re.compile(rf"(.*)\?({_ONE}(?:&{_ONE})*)", re.DOTALL)


def split_options(rest: str, known: Mapping[str, Sequence[str] | None] | None) -> tuple[str, dict[str, str]]:
    """The place, and its options by name. `known` maps each to what it may be, none for any text.

    `known` is None where nothing is refused yet. A `?` that no `name=` follows belongs to the place, as in a
    glob. Raises `UsageError`.
    """
    found = _OPTIONS.fullmatch(rest)
    if found is None:
        return rest, {}
    options: dict[str, str] = {}
    for name, value in parse_qsl(found[2], keep_blank_values=True):
        if known is None:
            options[name] = value
            continue
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise UsageError(
                f"unknown option {name!r}",
                found=rest,
                allowed=", ".join(known) or "no options",
                todo=f"did you mean {near[0]!r}?" if near else None,
            )
        allowed = known[name]
        if name in options:
            raise UsageError(f"option {name!r} is given twice", found=rest)
        if not value or (allowed is not None and value not in allowed):
            raise UsageError(
                f"bad value of option {name!r}",
                found=value or "nothing",
                allowed=", ".join(allowed) if allowed is not None else "a value",
            )
        options[name] = value
    return found[1], options
