"""What a user writes to name an encoder: `KIND:NAME[?option=value&...]`, and the features it stands for.

`layers=12,24` and `max_length=32,64` list several values: the spec then stands for one feature each (limits
first, then layers), which are named `NAME-L12`, `NAME-max32`, or one by one: `A,B=SPEC`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import parse_qsl, urlencode

from embedstore.documents import parse_named
from embedstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

Option: TypeAlias = str | int | tuple[int, ...]

# what the name of a file of weights ends with
WEIGHTS = re.compile(r"\.(safetensors|bin|pt|pth|npz|npy)$")

_GRAMMAR = "KIND:NAME, for example hf:facebook/dinov2-large, st:all-MiniLM-L6-v2, hf:../my-folder"
# `layer=12` is `layers=12`; an option of whole numbers may list several only where a feature each is meant.
_SIZE = re.compile(r"([0-9]{1,9})x([0-9]{1,9})")
_WHOLE = {
    "image_size": r"[0-9]{1,9}",
    "max_length": r"[0-9]{1,9}",
    "layers": r"-?[0-9]{1,4}",
    "draft": r"[0-9]{1,5}",
}
_LISTS = {"max_length": "max", "layers": "L"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """A parsed spec: kind, name (hub id, folder or short name) and options.

    `layers` is a tuple wherever it is given; `max_length` only where it lists several limits, `image_size`
    where it is height and width (`224x448`).
    """

    kind: str
    name: str
    options: Mapping[str, Option] = field(default_factory=dict)

    def __str__(self) -> str:
        """The spec as it is written."""
        shown = {
            ("layer" if name == "layers" and len(values(value)) == 1 else name): (
                "x" if name == "image_size" else ","
            ).join(map(str, values(value)))
            for name, value in self.options.items()
        }
        return f"{self.kind}:{self.name}" + (f"?{urlencode(shown, safe=',/:')}" if shown else "")

    def without(self, *names: str) -> EncoderSpec:
        """The spec with these options left out."""
        return replace(self, options={k: v for k, v in self.options.items() if k not in names})

    @property
    def lists(self) -> dict[str, tuple[int, ...]]:
        """The options that list several values."""
        return {
            name: found
            for name in _LISTS
            if isinstance(found := self.options.get(name), tuple) and len(found) > 1
        }


def values(option: Option) -> tuple[str | int, ...]:
    """The values of an option, one or several."""
    return option if isinstance(option, tuple) else (option,)


def split_spec(spec: str) -> EncoderSpec:
    """Parse `KIND:NAME[?option=value&...]`; `UsageError` with the grammar otherwise."""
    kind, colon, rest = spec.partition(":")
    name, mark, query = rest.partition("?")
    if not colon or not kind or not name or "/" in kind:
        raise UsageError("an encoder needs a kind and a name", found=spec, allowed=_GRAMMAR)
    options: dict[str, Option] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        known = "layers" if key == "layer" else key
        if known in options:
            raise UsageError("an option is given twice", where=spec, found=key)
        options[known] = _whole(key, known, value, spec) if known in _WHOLE else value
    if mark and not options:
        raise UsageError("an option is written name=value", where=spec, found=query)
    return EncoderSpec(kind=kind, name=name, options=options)


def _whole(key: str, known: str, value: str, spec: str) -> int | tuple[int, ...]:
    if known == "image_size" and (size := _SIZE.fullmatch(value)):
        return int(size[1]), int(size[2])
    one = _WHOLE[known]
    many = known in _LISTS and key != "layer"
    if not re.fullmatch(f"{one}(,{one})*" if many else one, value):
        listed = ", or several with commas between them" if many else ""
        raise UsageError(f"{key} must be a whole number{listed}", where=spec, found=value)
    found = tuple(int(part) for part in value.split(","))
    if len(set(found)) < len(found):
        raise UsageError(f"{key} lists a value twice", where=spec, found=value)
    return found if known == "layers" or len(found) > 1 else found[0]


def yes_or_no(option: str, value: str) -> bool:
    """An option that is `true` or `false`."""
    if value not in ("true", "false"):
        raise UsageError(f"{option} is true or false", found=value)
    return value == "true"


def default_name(spec: str) -> str:
    """The feature name of a spec without one: the last part of its id, in the letters a name may have."""
    parsed = split_spec(spec)
    last = re.split(r"[/\\]", parsed.name.rstrip("/\\"))[-1]
    if parsed.kind == "python":
        last = last.rpartition(":")[2]
    elif parsed.kind == "open_clip" and ":" not in parsed.name and not Path(parsed.name).is_dir():
        # A tag alone, or the name of a file, says little.
        last = f"{parsed.name.partition('/')[0]}-{WEIGHTS.sub('', last)}"
    if last.strip(".") == "":
        last = Path(parsed.name).resolve().name
    clean = re.sub(r"[^A-Za-z0-9_.-]+", "-", last).strip(".-")
    return clean[:200] or parsed.kind


def named_features(text: str) -> list[tuple[str, str]]:
    """The features of `[NAME=]SPEC`: the name of each, and the spec that gives it alone.

    Several names stand with commas between them, one a feature. Raises `UsageError` where they do not fit.
    """
    given, spec = parse_named(text)
    parsed = split_spec(spec)
    names = [default_name(spec)] if given is None else given.split(",")
    lists = parsed.lists
    if not lists:
        alone = [("", spec)]
    else:
        alone = []
        for chosen in product(*lists.values()):
            one = dict(zip(lists, chosen, strict=True))
            options = {**parsed.options, **one} | ({"layers": (one["layers"],)} if "layers" in one else {})
            suffix = "".join(f"-{_LISTS[name]}{value}" for name, value in one.items())
            alone.append((suffix, str(replace(parsed, options=options))))
    if len(names) == 1:
        return [(names[0] + suffix, one_spec) for suffix, one_spec in alone]
    if len(names) != len(alone) or not all(names):
        raise UsageError(
            "an encoder needs one name, or one for each of its features",
            where=text,
            found=f"{len(names)} names for {len(alone)} features",
        )
    return [(name, one_spec) for name, (_, one_spec) in zip(names, alone, strict=True)]
