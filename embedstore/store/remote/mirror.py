"""Where remote stores are kept in part on this machine: their small files whole, in a mirror folder.

A mirror is named by its store's URL and the bytes of its plan, so that another store at the same URL has
another mirror; each file in it carries the remote object's size and tag in its time stamp, and one that does
not agree with the remote object is fetched again. What reads a store by paths reads a mirror unchanged: files
arrive when `layout` is asked for them. Shards are not mirrored (`remote_shard`).
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedstore.documents import NAME_PATTERN
from embedstore.documents.base import MOST_DOCUMENT_BYTES
from embedstore.errors import RemoteError
from embedstore.store import files, layout
from embedstore.store.remote.cache_folder import OWN, is_mirrored, own_folder, remove_own, stores_root
from embedstore.store.remote.objects import PART_BYTES, Remote, Stat, parse_url

if TYPE_CHECKING:
    from collections.abc import Iterable

_MARK = "remote.json"
_DOCUMENTS = (layout.HEADER, layout.CALIBRATION, layout.MANIFEST)
_NEEDED = {layout.UNITS_TABLE, layout.QUARANTINE, layout.CALIBRATION}
_PART = re.compile(r"^part-\d{5}\.parquet$")
_SUBSET_TABLES = {layout.SUBSET_ROWS, layout.SUBSET_DROPPED}
_RECORD = re.compile(r"^\d{8}\.json$")
TABLES = ("images", "texts", "masks")
_FETCHERS = 8
MOST_FEATURES = 10_000
MOST_SUBSETS = 10_000


class Mirror:
    """One remote store and the folder `root` that holds its small files. Thread-safe.

    `own`: a folder of this process alone, removed by `close`; written to, and checked without what is cached.
    """

    def __init__(self, remote: Remote, root: Path, plan: Stat | None = None) -> None:
        self.remote, self.root = remote, root
        self.own = root.parent.parent.name == OWN
        # What was found when it was brought: what is read later must be of the same store.
        self._seen: dict[str, Stat] = {} if plan is None else {layout.PLAN: plan}
        self._fresh: set[str] = set()
        self._shards: dict[str, dict[str, Stat]] = {}

    def close(self) -> None:
        """Remove an own folder; a shared one stays for the next time."""
        # In a fork of the process that made it, it is not there.
        if self.own and _mirrors.pop((os.getpid(), str(self.root)), None) is not None:
            remove_own(self.root.parent)

    def keep_tables(self) -> None:
        """Take the tables that are here for what they should be: they are about to be made and uploaded."""
        self._fresh |= {f"{layout.TABLES}/{name}" for name in TABLES}

    def sync(self) -> None:
        """Bring documents and records of all features; what is not there any more goes."""
        self._fresh.clear()
        self._shards.clear()
        files_there, found = self.remote.listing(layout.FEATURES)
        if self.remote.read_only and layout.ZARR not in files_there:
            raise RemoteError(
                "the server does not list folders",
                where=f"{self.remote.url}/{layout.FEATURES}",
                todo="have it list them (nginx: autoindex on), or copy the store here",
            )
        names = [n for n in found if re.match(NAME_PATTERN, n) and len(n) <= 200]
        if len(names) > MOST_FEATURES:
            raise RemoteError("too many features", where=self.remote.url, found=len(names))
        for name in set(layout.feature_names(self.root)) - set(names):
            shutil.rmtree(layout.feature(self.root, name), ignore_errors=True)
        with ThreadPoolExecutor(_FETCHERS, "embedstore-mirror") as pool:
            list(pool.map(self._sync_feature, names))
        self._sync_subsets()

    def _sync_subsets(self) -> None:
        """Bring the cards of all subsets; their tables come when they are read."""
        names = [n for n in self.remote.listing(layout.SUBSETS)[1] if re.match(NAME_PATTERN, n)]
        names = [n for n in names if len(n) <= 200]
        if len(names) > MOST_SUBSETS:
            raise RemoteError("too many subsets", where=self.remote.url, found=len(names))
        for name in set(layout.subset_names(self.root)) - set(names):
            shutil.rmtree(layout.subset(self.root, name), ignore_errors=True)
        with ThreadPoolExecutor(_FETCHERS, "embedstore-mirror") as pool:
            list(pool.map(self._bring_card, names))

    def _bring_card(self, subset: str) -> None:
        self._bring(f"{layout.SUBSETS}/{subset}/{layout.SUBSET_CARD}", most=MOST_DOCUMENT_BYTES)

    def sync_subset(self, name: str) -> None:
        """Bring the card of one subset as it is now; its tables are looked up again when they are read."""
        folder = f"{layout.SUBSETS}/{name}/"
        self._fresh -= {known for known in list(self._fresh) if known.startswith(folder)}
        self._bring_card(name)

    def _sync_feature(self, name: str) -> None:
        folder = f"{layout.FEATURES}/{name}"
        there, _ = self.remote.listing(folder)
        for document in _DOCUMENTS:
            self._bring(f"{folder}/{document}", there, document, most=MOST_DOCUMENT_BYTES)
        for table in (layout.UNITS_TABLE, layout.QUARANTINE):
            if table not in there:
                (self.root / folder / table).unlink(missing_ok=True)
        records, _ = (
            self.remote.listing(f"{folder}/{layout.UNITS}") if layout.MANIFEST not in there else ({}, [])
        )
        self.records(name, records)

    def records(self, feature: str, there: dict[str, Stat | None]) -> None:
        """Bring the records of a feature that are `there`, by file name; others go."""
        folder = f"{layout.FEATURES}/{feature}/{layout.UNITS}"
        named = {n: s for n, s in there.items() if _RECORD.match(n)}
        for path in layout.records(layout.feature(self.root, feature)):
            if path.name not in named:
                path.unlink(missing_ok=True)
        with ThreadPoolExecutor(_FETCHERS, "embedstore-mirror") as pool:
            jobs = [
                pool.submit(self._bring, f"{folder}/{n}", named, n, most=MOST_DOCUMENT_BYTES) for n in named
            ]
            for job in jobs:
                job.result()

    def need(self, path: Path) -> None:
        """Bring a file, or the folder of a table, that is about to be read."""
        relative = path.relative_to(self.root).as_posix()
        parts = relative.split("/")
        if relative in self._fresh:
            return
        if parts[0] == layout.TABLES and len(parts) == 2:
            self._table(relative)
            self._refuse_changed(layout.PLAN)
        elif parts[0] == layout.SUBSETS and len(parts) == 3 and parts[2] in _SUBSET_TABLES:
            self._bring(relative)
        elif parts[0] == layout.FEATURES and (
            (len(parts) == 3 and parts[2] in _NEEDED) or (len(parts) == 4 and parts[2] == layout.THUMBNAILS)
        ):
            self._bring(relative)
            if parts[2] != layout.CALIBRATION:  # of a feature that is not complete it is read too
                self._refuse_changed(f"{parts[0]}/{parts[1]}/{layout.MANIFEST}")

    def metadata(self, names: Iterable[str]) -> None:
        """Bring Zarr metadata by its names relative to the store."""
        with ThreadPoolExecutor(_FETCHERS, "embedstore-mirror") as pool:
            list(pool.map(lambda n: self._bring(n, most=MOST_DOCUMENT_BYTES), names))

    def _table(self, folder: str) -> None:
        found, _ = self.remote.listing(folder)
        there = {n: s for n, s in found.items() if _PART.match(n)}
        here = self.root / folder
        if here.is_dir():
            for path in here.iterdir():
                if path.name not in there and _PART.match(path.name):
                    path.unlink(missing_ok=True)
        for name in sorted(there):
            self._bring(f"{folder}/{name}", there, name)
        self._fresh.add(folder)

    def _bring(
        self,
        relative: str,
        there: dict[str, Stat | None] | None = None,
        name: str = "",
        *,
        most: int | None = None,
    ) -> None:
        """Bring one file where the local one does not agree; it goes where the remote one is not there."""
        if relative in self._fresh:
            return
        final = self.root / relative
        known = there.get(name) if there is not None else None
        gone = there is not None and name not in there
        stat = None if gone else known or self.remote.stat(relative)
        if stat is None:
            final.unlink(missing_ok=True)
        elif most is not None and stat.nbytes > most:
            raise RemoteError(
                "the document is too large",
                where=f"{self.remote.url}/{relative}",
                found=f"{stat.nbytes} bytes",
                allowed=most,
            )
        elif not _agrees(final, stat):
            try:
                self.fetch(relative, final, stat)
            except FileNotFoundError:
                final.unlink(missing_ok=True)
        if stat is not None:
            self._seen[relative] = stat
        self._fresh.add(relative)

    def fetch(self, relative: str, final: Path, stat: Stat) -> None:
        """Bring a whole object, part by part; the file is there when it is complete."""

        def write(handle: int) -> None:
            for first in range(0, stat.nbytes, PART_BYTES):
                last = min(stat.nbytes, first + PART_BYTES)
                files.write_pieces(handle, [self.remote.read_range(relative, first, last)])

        name = files.write_temporary(final, write, flush=False)
        os.utime(name, (_stamp(stat), _stamp(stat)))
        name.replace(final)

    def table_sizes(self) -> int:
        """Bytes of all tables, without bringing them."""
        total = 0
        for table in TABLES:
            folder = f"{layout.TABLES}/{table}"
            for name, stat in self.remote.listing(folder)[0].items():
                found = stat or self.remote.stat(f"{folder}/{name}")
                total += found.nbytes if found is not None and _PART.match(name) else 0
        return total

    def shard_stat(self, relative: str) -> Stat | None:
        """Size and tag of a shard: one listing an array, where the server can list, serves all its shards."""
        array = relative.partition("/c/")[0]
        known = self._shards.setdefault(array, {})
        if relative not in known:
            if self.remote.read_only or known:  # one by one: a listing costs too much, or is done already
                stat = self.remote.stat(relative)
                found = {} if stat is None else {relative: stat}
            else:
                found = {f"{array}/{n}": s for n, s in self.remote.sizes(array).items()}
            # Nothing is kept of a store that has changed: the next who asks must be refused too.
            self._refuse_changed(f"{array.rpartition('/')[0]}/{layout.MANIFEST}")
            known |= found
        return known.get(relative)

    def _refuse_changed(self, name: str) -> None:
        """`RemoteError` where a plan or a manifest is not the one any more that was read."""
        if self.own:
            return
        stat, seen = self.remote.stat(name), self._seen.get(name)
        if seen is None and stat is not None and _agrees(self.root / name, stat):
            # Of a process that was handed an open feature: the mirror says what was read.
            seen = self._seen[name] = stat
        if stat is None or stat != seen:
            raise RemoteError(
                "the store has changed since it was opened",
                where=f"{self.remote.url}/{name}",
                todo="open it again",
            )

    def forget_shard(self, relative: str) -> None:
        """Look a shard up again when it is needed next."""
        self._shards.get(relative.partition("/c/")[0], {}).pop(relative, None)


def _stamp(stat: Stat) -> int:
    """A time stamp in seconds that tells one version of an object from another; no file says when it came."""
    digest = hashlib.sha256(f"{stat.nbytes} {stat.tag}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _agrees(path: Path, stat: Stat) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    return bool(stat.tag) and found.st_size == stat.nbytes and int(found.st_mtime) == _stamp(stat)


_mirrors: dict[tuple[int, str], Mirror] = {}
_remotes: dict[tuple[int, str], Remote] = {}


def remote_at(url: str) -> Remote:
    """The place of a URL, one of each in a process."""
    return _remotes.setdefault((os.getpid(), url), Remote(url))


def mirror_of(path: Path) -> Mirror:
    """The mirror that a path lies in, as it was opened last; `RemoteError` where that cannot be told."""
    under = Path(path).relative_to(stores_root()).parts
    root = stores_root().joinpath(*under[: 3 if under[0] == OWN else 2])
    key = (os.getpid(), str(root))
    if key not in _mirrors:
        mark = root.parent / _MARK
        try:
            url = parse_url(str(json.loads(mark.read_text(encoding="utf-8"))["url"]))
        except (OSError, ValueError, KeyError, TypeError):
            url = None
        if url is None:
            raise RemoteError("this cache folder does not say what it is of", where=root, todo="remove it")
        _mirrors.setdefault(key, Mirror(remote_at(url), root))
    _listen()
    return _mirrors[key]


def _need(store: Path, path: Path) -> None:
    if is_mirrored(store):
        mirror_of(store).need(path)


def _listen() -> None:
    """Have files of mirrors brought before they are read."""
    if _need not in layout.on_need:
        layout.on_need.append(_need)


def open_mirror(url: str) -> Path | None:
    """The folder of a remote store's mirror, brought up to date; none where there is no store at the URL."""
    remote = remote_at(url)
    plan, stat = _plan_of(remote)
    if plan is None:
        return None
    key = hashlib.sha256(url.encode() + b"\n" + plan).hexdigest()[:32]
    mirror = _made(remote, stores_root() / key / remote.name, plan, stat)
    mirror.sync()
    return mirror.root


def own_mirror(url: str) -> Mirror:
    """A folder of this process for a store that is written or checked; removed by `close`, or at exit."""
    remote = remote_at(url)
    plan, stat = _plan_of(remote)
    mirror = _made(remote, own_folder() / remote.name, plan, stat)
    if plan is not None:
        mirror.sync()
    else:
        mirror.keep_tables()
    atexit.register(mirror.close)
    return mirror


def _plan_of(remote: Remote) -> tuple[bytes | None, Stat | None]:
    try:
        stat = remote.stat(layout.PLAN)
        return remote.read(layout.PLAN, most=MOST_DOCUMENT_BYTES), stat
    except FileNotFoundError:
        return None, None


def _made(remote: Remote, root: Path, plan: bytes | None, stat: Stat | None) -> Mirror:
    mark = root.parent / _MARK
    if not mark.is_file():
        _write(mark, json.dumps({"url": remote.url}).encode())
    if plan is not None and not (layout.plan(root).is_file() and layout.plan(root).read_bytes() == plan):
        _write(layout.plan(root), plan)
    _listen()
    # A new one each time: what was opened before goes on to compare with what it saw.
    found = _mirrors[os.getpid(), str(root)] = Mirror(remote, root, stat)
    return found


def _write(final: Path, data: bytes) -> None:
    files.write_temporary(final, lambda handle: files.write_pieces(handle, [data]), flush=False).replace(
        final
    )


def shown(path: Any) -> str:
    """A path for a message: the URL of what is mirrored there."""
    return mirror_of(Path(path)).remote.url if is_mirrored(path) else str(path)
