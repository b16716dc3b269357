"""What to do about a full disk: how much space is missing, and which policy would do with what there is."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from embedstore.errors import DiskFullError, EmbedstoreError
from embedstore.store import geometry
from embedstore.store.advice import made_by
from embedstore.store.create import read_plan
from embedstore.store.sizes import feature_nbytes, unit_nbytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from embedstore.documents import FeatureHeader, Plan

# From the least loss to the most.
OFFERED = ("float16", "int8", "merge-64", "merge-64+int8", "merge-16", "merge-8", "merge-8+int8")


def free_nbytes(place: Path) -> int:
    """Bytes that are free where `place` is, or would be."""
    return shutil.disk_usage(
        next(p for p in (place.absolute(), *place.absolute().parents) if p.exists())
    ).free


def nbytes_under(
    plan: Plan, header: FeatureHeader, policy: str, *, tokens_per_row: float = 0.0
) -> int | None:
    """Bytes of the shards of a feature under another policy; none where that does not fit its encoder."""
    try:
        other = geometry.plan_feature(
            name=header.name,
            plan=plan,
            card=header.card,
            policy=policy,
            shard_rows=header.shard_rows,
            imported_tokens=header.max_tokens,
        )
    except EmbedstoreError:
        return None
    return feature_nbytes(other, tokens_per_row=tokens_per_row)


def policy_that_fits(
    plan: Plan,
    header: FeatureHeader,
    room: int,
    *,
    tokens_per_row: float = 0.0,
    offered: Sequence[str] = OFFERED,
) -> tuple[str, int] | None:
    """The first of `offered` that is smaller than the header's and takes at most `room`, and its bytes."""
    most = min(room, feature_nbytes(header, tokens_per_row=tokens_per_row) - 1)
    for name in offered:
        nbytes = nbytes_under(plan, header, name, tokens_per_row=tokens_per_row)
        if nbytes is not None and nbytes <= most:
            return name, nbytes
    return None


def disk_full(
    store: Path, header: FeatureHeader, *, missing: Sequence[int], tokens_per_row: float
) -> DiskFullError:
    """The error of a feature that does not fit the disk."""
    left = sum(unit_nbytes(header, unit, tokens_per_row=tokens_per_row) for unit in missing)
    done = feature_nbytes(header, tokens_per_row=tokens_per_row) - left
    free = free_nbytes(store)
    more = size(max(0, left - free))
    todo = f"free {more} on this disk and run the same command again: what is finished stays"
    verb = made_by(store, header)
    # The policy of a compacted feature is that of the old one; an import knows floats only.
    if verb != "compact":
        offered = ("float16",) if verb == "import" else OFFERED
        fitting = policy_that_fits(
            read_plan(store), header, free + done, tokens_per_row=tokens_per_row, offered=offered
        )
        todo += (
            "; no policy would make it fit"
            if fitting is None
            else f"; or remove features/{header.name} and {verb} with --policy {fitting[0]}, which takes "
            f"{size(fitting[1])}"
        )
    return DiskFullError(
        f"the disk is full: {len(missing)} of {header.units} units of {header.name!r} are not stored",
        where=store,
        found=f"{size(free)} free, {size(left)} needed under the policy {header.policy}",
        todo=todo,
    )


def size(nbytes: float) -> str:
    """Bytes for a message, powers of 1000, rounded up a little."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} TB"
