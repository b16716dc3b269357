"""Plan a remote store: made in a folder of this process, then uploaded, `plan.json` last."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from embedstore.documents import Plan, refuse_differences
from embedstore.documents.base import MOST_DOCUMENT_BYTES
from embedstore.errors import StoreError, UsageError
from embedstore.store import geometry, layout
from embedstore.store.remote.cache_folder import cache_root, is_mirrored
from embedstore.store.remote.mirror import TABLES, mirror_of, own_mirror, remote_at
from embedstore.store.remote.objects import parse_url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

    from embedstore.store.remote.mirror import Mirror

_OURS = {layout.ZARR, layout.TABLES, layout.FEATURES}
_TODO = "give the options of the first run, restore the source, or choose a new store URL"


@contextmanager
def written_at(store: str | PathLike[str], *, what: str) -> Iterator[Path]:
    """The local folder in which a store is written: itself, or for a URL one that is removed at the end.

    `UsageError` where `what` cannot write there.
    """
    url = parse_url(str(store))
    if url is None:
        yield Path(store)
        return
    refuse_read_only(url, what=what)
    mirror = own_mirror(url)
    try:
        yield mirror.root
    finally:
        mirror.close()


def refuse_read_only(store: str | PathLike[str], *, what: str) -> None:
    """`UsageError` where `what` writes and the store's URL can only be read."""
    url = parse_url(str(store))
    if url is not None:
        remote_at(url).refuse_read_only(what)


def refuse_url(place: str | PathLike[str], *, what: str, todo: str) -> None:
    """`UsageError` where `what` works on folders of this machine only."""
    url = parse_url(str(place))
    if url is not None:
        raise UsageError(f"{what} works on a folder of this machine", found=url, todo=todo)


def log_place(store: str | PathLike[str]) -> Path:
    """Beside what the log of a store lies: the store, or for a URL a name in the cache folder."""
    url = parse_url(str(store))
    if url is None:
        return Path(store)
    folder = cache_root() / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{url.rpartition('/')[2]}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"


def publish_plan(store: Path, *, made: bool) -> bool:
    """Upload a planning that was `made` here, where `store` is of a URL; returns whether the store is new.

    Raises `MismatchError` where another plan is there meanwhile, `StoreError` where foreign objects are.
    """
    if not is_mirrored(store):
        return made
    mirror = mirror_of(store)
    plan = layout.plan(store).read_bytes()
    if not made:
        return False
    # Listed before the plan is looked for: what another process publishes in between is not foreign.
    found, folders = mirror.remote.listing("")
    if _same(mirror, plan):
        return False
    _refuse_foreign(mirror, {*found, *folders} - _OURS)
    for name, data in geometry.root_files().items():
        mirror.remote.put(name, data)
    for table in TABLES:
        folder = f"{layout.TABLES}/{table}"
        here = {p.name for p in (store / folder).iterdir()} if (store / folder).is_dir() else set()
        for old in set(mirror.remote.listing(folder)[0]) - here:
            mirror.remote.remove(f"{folder}/{old}")
        for name in sorted(here):
            mirror.remote.upload(f"{folder}/{name}", store / folder / name)
    created = mirror.remote.put(layout.PLAN, plan, create=True)
    if not created:
        _same(mirror, plan)
    return created


def _same(mirror: Mirror, plan: bytes) -> bool:
    """Whether there is a store of this plan; `MismatchError` for one of another plan."""
    there = mirror.remote.read(layout.PLAN, most=MOST_DOCUMENT_BYTES)
    if there is None:
        return False
    refuse_differences(
        Plan.from_json(there, where=layout.PLAN),
        Plan.from_json(plan, where=layout.PLAN),
        what="the plan",
        where=f"{mirror.remote.url}/{layout.PLAN}",
        todo=_TODO,
    )
    return True


def _refuse_foreign(mirror: Mirror, foreign: set[str]) -> None:
    if foreign:
        raise StoreError(
            "the place is not empty and holds no store",
            where=mirror.remote.url,
            found=", ".join(sorted(foreign)[:5]),
            todo="choose another URL for the store",
        )
