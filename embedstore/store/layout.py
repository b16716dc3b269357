"""Where everything lies inside a store: the only file that knows paths.

A unit number is written with eight digits, a Parquet part with five, a Zarr chunk key as it is.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from embedstore.documents import NAME_PATTERN
from embedstore.errors import CorruptStoreError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PLAN = "plan.json"
HEADER = "header.json"
CALIBRATION = "calibration.safetensors"
MANIFEST = "manifest.json"
ZARR = "zarr.json"
TABLES = "tables"
FEATURES = "features"
UNITS = "units"
UNITS_TABLE = "units.parquet"
QUARANTINE = "quarantine.parquet"
THUMBNAILS = "thumbnails"
SUBSETS = "subsets"
SUBSET_CARD = "subset.json"
SUBSET_ROWS = "rows.parquet"
SUBSET_DROPPED = "dropped.parquet"
PROTOTYPES = "prototypes"
PROTOTYPES_CARD = "prototypes.json"
PROTOTYPES_VECTORS = "prototypes.safetensors"

# Called with store and path before a file or the folder of a table is read, which a mirror then brings.
on_need: list[Callable[[Path, Path], None]] = []

_TEMPORARY = re.compile(r"^\..+\.[0-9a-f]{16}\.tmp$")
_PART = re.compile(r"^part-\d{5}\.parquet$")
_RECORD = re.compile(r"^\d{8}\.json$")


def temporary(final: Path) -> Path:
    """A name beside `final` that no other writer will choose."""
    return final.with_name(f".{final.name}.{secrets.token_hex(8)}.tmp")


def is_temporary(name: str) -> bool:
    """Whether a file name is one that `temporary` gives."""
    return _TEMPORARY.match(name) is not None


def plan(store: Path) -> Path:
    """The document whose existence makes a folder a store."""
    return store / PLAN


def table(store: Path, name: str) -> Path:
    """Folder of one partitioned table: images, texts or masks."""
    return store / TABLES / name


def part(store: Path, name: str, number: int) -> Path:
    """One Parquet part of a table."""
    return table(store, name) / f"part-{number:05d}.parquet"


def inside(store: Path, path: Path) -> Path:
    """`path`, which must lie in the store once every link is followed; `CorruptStoreError` otherwise."""
    for need in on_need:
        need(store, path)
    if not _has_link(str(store), str(path)):
        return path
    root, real = os.path.realpath(store), os.path.realpath(path)
    if real != root and not real.startswith(root.rstrip(os.sep) + os.sep):
        raise CorruptStoreError(
            "a link leads out of the store",
            where=path.relative_to(store).as_posix(),
            found=real,
            todo="a store is opened only where all of it lies in its own folder: copy the files there",
        )
    return path


def _has_link(store: str, path: str) -> bool:
    """Whether anything between a store and a path in it is a link; one look at each, for speed."""
    place = store
    for name in path[len(store) :].split(os.sep):  # noqa: PTH206 - pathlib takes longer than the looks
        if name:
            place = f"{place}{os.sep}{name}"
            try:
                if stat.S_ISLNK(os.lstat(place).st_mode):
                    return True
            except OSError:
                return False
    return False


def parts(store: Path, name: str) -> list[Path]:
    """The parts of a table that exist, in row order."""
    for need in on_need:
        need(store, table(store, name))
    return [inside(store, p) for p in _listed(table(store, name)) if _PART.match(p.name)]


def _listed(folder: Path) -> list[Path]:
    """What a folder holds, sorted; nothing where it is not there, or vanishes during the look."""
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def feature(store: Path, name: str) -> Path:
    """Folder of a feature; a name that could leave the store is refused."""
    if not re.match(NAME_PATTERN, name) or len(name) > 200:
        raise StoreError("bad feature name", found=name, allowed="letters, digits, '_', '.', '-'")
    return store / FEATURES / name


def store_of(feature: Path) -> Path:
    """The store that a feature's folder lies in."""
    return feature.parent.parent


def feature_names(store: Path) -> tuple[str, ...]:
    """Names of all features that are complete or begun, sorted."""
    named = (p for p in _listed(store / FEATURES) if re.match(NAME_PATTERN, p.name))
    return tuple(p.name for p in named if (p / HEADER).is_file())


def subset(store: Path, name: str) -> Path:
    """Folder of a subset; a name that could leave the store is refused."""
    if not re.match(NAME_PATTERN, name) or len(name) > 200:
        raise StoreError("bad subset name", found=name, allowed="letters, digits, '_', '.', '-'")
    return store / SUBSETS / name


def subset_names(store: Path) -> tuple[str, ...]:
    """Names of all subsets, sorted; a folder without a card is none."""
    named = (p for p in _listed(store / SUBSETS) if re.match(NAME_PATTERN, p.name))
    return tuple(p.name for p in named if (p / SUBSET_CARD).is_file())


def unfinished_subsets(store: Path) -> tuple[str, ...]:
    """Names of folders of subsets without a card: a writer was stopped, or is at work."""
    named = (p for p in _listed(store / SUBSETS) if p.is_dir())
    return tuple(p.name for p in named if not (p / SUBSET_CARD).is_file())


def prototypes(store: Path, name: str) -> Path:
    """Folder of concept prototypes; a name that could leave the store is refused."""
    if not re.match(NAME_PATTERN, name) or len(name) > 200:
        raise StoreError("bad name of prototypes", found=name, allowed="letters, digits, '_', '.', '-'")
    return store / PROTOTYPES / name


def prototype_names(store: Path) -> tuple[str, ...]:
    """Names of all prototypes, sorted; a folder without a card is none."""
    named = (p for p in _listed(store / PROTOTYPES) if re.match(NAME_PATTERN, p.name))
    return tuple(p.name for p in named if (p / PROTOTYPES_CARD).is_file())


def unfinished_prototypes(store: Path) -> tuple[str, ...]:
    """Names of folders of prototypes without a card: a writer was stopped, or is at work."""
    named = (p for p in _listed(store / PROTOTYPES) if p.is_dir())
    return tuple(p.name for p in named if not (p / PROTOTYPES_CARD).is_file())


def record(feature: Path, unit: int) -> Path:
    """The journal entry of one unit."""
    return feature / UNITS / f"{unit:08d}.json"


def records(feature: Path) -> list[Path]:
    """Journal entries that exist, in unit order."""
    return [p for p in _listed(feature / UNITS) if _RECORD.match(p.name)]


def shard(array: str, number: int, axes: int) -> str:
    """Path of a shard relative to its feature: the default chunk key encoding of Zarr v3."""
    return "/".join([array, "c", str(number), *(["0"] * (axes - 1))])


def of_feature(feature: Path, name: str) -> Path:
    """A file of a feature to be read; `CorruptStoreError` where a link leads out of the store."""
    return inside(store_of(feature), feature / name)


def thumbnails(unit: int) -> str:
    """Path of a unit's thumbnails relative to its feature."""
    return f"{THUMBNAILS}/{unit:08d}.parquet"


def plan_leftovers(store: Path) -> list[Path]:
    """Temporary files of the planning step."""
    folders = [store, store / FEATURES, *_listed(store / TABLES)]
    return [p for folder in folders for p in _listed(folder) if is_temporary(p.name)]


def leftovers(folder: Path) -> Iterator[Path]:
    """Every temporary file below a folder; links are not followed."""
    for here, _, names in os.walk(folder):
        yield from (Path(here, name) for name in sorted(names) if is_temporary(name))
