"""A `FitConfig` from a TOML file and from options, which win. Imports no torch."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from embedstore.documents import FitConfig
from embedstore.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping


def fit_config(file: Path | None = None, **options: Any) -> FitConfig:
    """The fields of `file`, then those of `options` that are not None; a head's own `options` one by one.

    `UsageError` for a file that cannot be read, an unknown field (with the nearest name) and a value that no
    fit could accept.
    """
    fields = read_toml(file) if file is not None else {}
    where = file.name if file is not None else "fit"
    own = fields.get("options", {})
    fields |= {name: value for name, value in options.items() if value is not None}
    if isinstance(own, dict) and isinstance(added := fields.get("options"), dict):
        fields["options"] = own | added
    return checked_config(fields, where)


def checked_config(fields: Mapping[str, Any], where: str) -> FitConfig:
    """The configuration of these fields; `UsageError` as of `fit_config`."""
    _refuse_unknown(fields, where)
    try:
        config = FitConfig.model_validate(fields, strict=True)
    except ValidationError as bad:
        first = bad.errors()[0]
        name = ".".join(str(p) for p in first["loc"])
        missing = first["type"] == "missing"
        raise UsageError(
            f"{name}: {first['msg'][:1].lower()}{first['msg'][1:]}",
            where=where,
            found=None if missing else repr(first.get("input")),
            todo=f"name a feature of the store as {name!r}" if missing else None,
        ) from None
    check_config(config, where)
    return config


def read_toml(file: Path) -> dict[str, Any]:
    """The fields of one TOML file; `UsageError` where it cannot be read."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as bad:
        raise UsageError(f"cannot read the configuration: {bad.strerror}", where=file) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as bad:
        raise UsageError(f"not valid TOML: {bad}", where=file) from None


def without_paths(config: FitConfig) -> FitConfig:
    """What is kept of a configuration: files of ids by their names alone, since no document holds a path."""
    rows = config.rows if config.rows is None else Path(config.rows).name
    return config.model_copy(
        update={"rows": rows, "mix": {Path(name).name: share for name, share in config.mix.items()}}
    )


def check_config(config: FitConfig, where: object = "fit") -> None:
    """Refuse fields that contradict each other."""
    if config.val_split is not None and config.val_fraction > 0:
        raise UsageError(
            "val_split and val_fraction exclude each other", where=where, todo="give one of them"
        )
    if config.val_split is not None and config.val_split == config.split:
        raise UsageError(
            "the checkpoint cannot be chosen on the split it is fitted on",
            where=where,
            found=f"split and val_split are both {config.split!r}",
            todo="name another split, or hold out a share of this one with val_fraction",
        )
    _check_rows(config, where)
    if config.warmup_steps is not None and config.warmup_share is not None:
        raise UsageError(
            "warmup_steps and warmup_share exclude each other", where=where, todo="give one of them"
        )
    if config.patience is not None and config.val_split is None and config.val_fraction == 0:
        raise UsageError(
            "patience needs a validation to look at",
            where=where,
            found=f"patience {config.patience}",
            todo="name a val_split, or hold out a val_fraction",
        )
    if config.positives is not None and config.captions == 1:
        raise UsageError(
            "with one caption a picture there is nothing to average",
            where=where,
            found=f"positives {config.positives!r}, captions 1",
            todo="give captions 2 or more, or leave positives out",
        )
    if config.micro_batch is not None and config.micro_batch > config.batch_size:
        raise UsageError(
            "a micro-batch is a part of a batch",
            where=where,
            found=f"micro_batch {config.micro_batch}, batch_size {config.batch_size}",
        )
    if config.min_lr > config.lr:
        raise UsageError(
            "min_lr is above lr",
            where=where,
            found=f"min_lr {config.min_lr:g}, lr {config.lr:g}",
            todo="lower min_lr too",
        )
    if config.seed >= 2**64:
        raise UsageError("a seed has 64 bits", where=where, found=config.seed, allowed="0 to 2^64 - 1")


def _check_rows(config: FitConfig, where: object) -> None:
    """What rows are fitted on, and beside a split that chooses the checkpoint."""
    if config.rows is not None and config.mix:
        raise UsageError(
            "rows and mix exclude each other", where=where, todo="a mix of one part has the rows of that part"
        )
    if len({Path(name).name for name in config.mix}) < len(config.mix):
        raise UsageError("two parts of a mix have one name", where=where, found=", ".join(config.mix))
    if config.val_split is not None and config.split is None and not (config.rows or config.mix):
        raise UsageError(
            "without a split every image is fitted on, those of val_split too",
            where=where,
            found=f"val_split {config.val_split!r}",
            todo="name the split to fit on, or use val_fraction",
        )


def _refuse_unknown(fields: Mapping[str, Any], where: str) -> None:
    known = list(FitConfig.model_fields)
    for name in fields:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise UsageError(
                f"unknown field {name!r}",
                where=where,
                allowed=", ".join(known),
                todo=f"did you mean {near[0]!r}?" if near else None,
            )
