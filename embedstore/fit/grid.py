"""Which heads a sweep fits: shared fields, lists to combine and single fits in a TOML file. No torch."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedstore.errors import UsageError
from embedstore.fit.config import checked_config, read_toml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from embedstore.documents import FitConfig

# What may differ between heads that learn from one stream of batches. Any other field decides what is read.
OF_THE_HEAD = frozenset({
    "head", "loss", "width", "image_local", "image_cls", "text_token", "text_global", "image_pooling",
    "text_pooling", "dropout", "options", "epochs", "lr", "min_lr", "weight_decay", "warmup_epochs",
    "warmup_steps", "warmup_share", "optimiser", "beta1", "beta2", "clip_norm", "ema", "patience",
    "temperature", "bias", "positives", "mask_duplicates", "global_weight", "local_weight", "precision",
})  # fmt: skip
_LONGEST_NAME = 120
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,=+-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One head of a sweep: its name, which is its folder's, its configuration, and what was varied for it."""

    name: str
    config: FitConfig
    varied: dict[str, Any]


def read_sweep(file: Path, base: Path | None = None, **options: Any) -> tuple[Member, ...]:
    """The members that a sweep's TOML file names, in its order.

    Its top level has fields of a fit, shared by all. `[grid]` has lists of values: every combination is
    fitted. Each `[[fit]]` has a `name` and fields of its own; with both, every fit meets every combination.
    A head's own options stand in `options` of either. `base`: a configuration file under all of it;
    `options` that are not None win over both. `UsageError` where something is varied that an option gives,
    for equal names, and for every member that no fit could accept.
    """
    found = read_toml(file)
    given = {name: value for name, value in options.items() if value is not None}
    shared = read_toml(base) if base is not None else {}
    shared = _over(shared, {k: v for k, v in found.items() if k not in {"grid", "fit"}})
    shared = _over(shared, given)
    members = []
    for name, fields in _fits(found.get("fit"), file.name):
        for chosen in _combinations(found.get("grid", {}), file.name):
            _refuse_given(given, [*_flat(fields), *chosen], file.name)
            twice = sorted(set(_flat(fields)) & set(chosen))
            if twice:
                raise UsageError("a field stands in [grid] and in a [[fit]]", where=file.name, found=twice[0])
            called = ",".join(
                filter(None, [name, *(f"{k.split('.')[-1]}={_word(v)}" for k, v in chosen.items())])
            )
            config = checked_config(
                _over(_over(shared, fields), _nested(chosen)), f"{file.name}: {called or 'the one fit'}"
            )
            varied = ({"fit": name} if name else {}) | chosen
            members.append(Member(name=_folder(called, file.name), config=config, varied=varied))
    names = [member.name for member in members]
    equal = sorted({name for name in names if names.count(name) > 1})
    if equal:
        raise UsageError(
            "two members have one name",
            where=file.name,
            found=equal[0],
            todo="give each [[fit]] another name",
        )
    return tuple(members)


def streams(members: tuple[Member, ...], pooled: Mapping[str, bool]) -> list[list[Member]]:
    """Members that learn from the same batches; `pooled`: by name, whether it reads pooled texts."""
    groups: dict[str, list[Member]] = {}
    for member in members:
        key = stream_key(member.config) | {"pooled_texts": pooled[member.name]}
        groups.setdefault(json.dumps(key, sort_keys=True), []).append(member)
    return list(groups.values())


def stream_key(config: FitConfig) -> dict[str, Any]:
    """The fields that decide which batches come: everything that is not the head's own affair."""
    plain = config.model_dump(mode="json")
    return {name: value for name, value in plain.items() if name not in OF_THE_HEAD}


def _fits(tables: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and own fields of each `[[fit]]`; without any, one that has neither."""
    if tables is None:
        yield "", {}
        return
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise UsageError("fit is not a list of tables", where=where, todo="write [[fit]], with two brackets")
    for table in tables:
        name = table.get("name")
        if not isinstance(name, str) or not name:
            raise UsageError("a [[fit]] has no name", where=where, found=repr(name), todo='add name = "..."')
        yield name, {field: value for field, value in table.items() if field != "name"}


def _combinations(grid: Any, where: str) -> Iterator[dict[str, Any]]:
    """Every choice of one value from each list of `[grid]`; the last list runs fastest."""
    flat = _flat(grid) if isinstance(grid, dict) else {"grid": grid}
    for name, values in flat.items():
        if not isinstance(values, list) or not values:
            raise UsageError(
                f"{name} is not a list of values",
                where=f"{where}: [grid]",
                found=repr(values),
                allowed="[1, 2]",
            )
    for values in itertools.product(*flat.values()):
        yield dict(zip(flat, values, strict=True))


def _flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields by name, a head's own as `options.NAME`."""
    own = fields.get("options")
    if not isinstance(own, dict):
        return dict(fields)
    rest = {name: value for name, value in fields.items() if name != "options"}
    return rest | {f"options.{name}": value for name, value in own.items()}


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `_flat`."""
    own = {name.removeprefix("options."): v for name, v in flat.items() if name.startswith("options.")}
    rest = {name: value for name, value in flat.items() if not name.startswith("options.")}
    return rest | ({"options": own} if own else {})


def _over(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of both, `over` wins; a head's own options one by one."""
    return _nested(_flat(under) | _flat(over))


def _refuse_given(given: Mapping[str, Any], varied: list[str], where: str) -> None:
    for name in varied:
        if name in _flat(given):
            raise UsageError(
                f"{name} is varied by the sweep and given as an option",
                where=where,
                todo="drop one of the two",
            )


def _word(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{name}={share}" for name, share in value.items())
    return str(value).lower() if isinstance(value, bool) else str(value)


def _folder(name: str, where: str) -> str:
    """A member's name as the name of a folder."""
    clean = re.sub(r"[^A-Za-z0-9_.,=+-]+", "_", name) or "head"
    if len(clean) > _LONGEST_NAME or not _NAME.fullmatch(clean):
        raise UsageError(
            "a member's name cannot be a folder's",
            where=where,
            found=clean,
            allowed=f"a letter or digit first, {_LONGEST_NAME} characters at most",
            todo="name the combinations one by one as [[fit]]",
        )
    return clean
