"""Where the files of a Hugging Face data set lie, and which split each belongs to. Nothing in it is run.

Three layouts: a folder made by `save_to_disk` (one set or several splits), a prepared copy in the cache of
`datasets`, and Parquet files as the Hub holds them. A name that is no path is looked up in the two caches of
this machine; nothing is ever downloaded.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedstore.errors import SourceError, UsageError
from embedstore.sources.reading.files import LocalFile, at

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from embedstore.sources.reading.files import File

_MOST_JSON = 64 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_PREPARED = re.compile(r".+?-(?P<split>[A-Za-z0-9_.]+?)(-\d{5}-of-\d{5})?\.arrow")
_SHARD = re.compile(r"(?P<split>[A-Za-z0-9_.-]+?)-\d{5}-of-\d{5}(-[0-9a-f]+)?\.parquet")
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a data set: Arrow ("arrow") or Parquet ("parquet")."""

    file: File
    split: str
    kind: str


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of a data set in their order, and the description that lies beside them, if any."""

    parts: tuple[Part, ...]
    features: Mapping[str, Any]


def find_parts(place: str, *, config: str | None = None, split: str | None = None) -> Layout:
    """The files of the data set `place`: a folder, a URL, a Parquet file, or a name in the caches."""
    root = _root(place, config)
    layout = _layout(root, config)
    if split is not None:
        chosen = tuple(part for part in layout.parts if part.split == split)
        if not chosen:
            raise UsageError(
                f"no split {split!r}", found=place, allowed=", ".join(sorted({p.split for p in layout.parts}))
            )
        return Layout(chosen, layout.features)
    return layout


def read_json(file: File) -> dict[str, Any]:
    """A small JSON object, `SourceError` where it is none."""
    with file.open() as stream:
        data = stream.read(_MOST_JSON + 1)
    try:
        found = json.loads(data) if len(data) <= _MOST_JSON else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise SourceError("not a JSON object, or too large", where=file.name)
    return found


def _root(place: str, config: str | None) -> File:
    there = at(place)
    if there.is_dir() or there.is_file():
        return there
    if there.remote or not _NAME.fullmatch(place):
        raise SourceError("there is no such data set", found=place)
    return LocalFile(_in_caches(place, config))


def _in_caches(name: str, config: str | None) -> Path:
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    prepared = Path(os.environ.get("HF_DATASETS_CACHE", home / "datasets")) / name.replace("/", "___")
    copies = sorted(prepared.glob("*/*/*/dataset_info.json")) if prepared.is_dir() else []
    copies = [path for path in copies if config is None or path.parts[-4] == config]
    if len(copies) == 1:
        return copies[0].parent
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub")) / f"datasets--{name.replace('/', '--')}"
    main = hub / "refs" / "main"
    snapshots = hub / "snapshots"
    if main.is_file() and (snapshots / main.read_text("ascii", "replace").strip()).is_dir():
        return snapshots / main.read_text("ascii").strip()
    found = sorted(snapshots.iterdir()) if snapshots.is_dir() else []
    if len(found) == 1:
        return found[0]
    if copies or found:
        raise SourceError(
            "several copies of this data set are in the cache",
            found=", ".join(str(path) for path in [*(c.parent for c in copies), *found][:4]),
            todo="name the folder of one: hf:FOLDER, or its ?config=NAME",
        )
    raise SourceError(
        "there is no such folder, and no such data set in the cache",
        found=name,
        todo=f"bring it first: hf download --repo-type dataset {name}",
    )


def _layout(root: File, config: str | None) -> Layout:
    if root.is_file():
        return Layout((Part(root, _split_of(root.name), "parquet"),), {})
    if root.child("dataset_dict.json").is_file():
        splits = read_json(root.child("dataset_dict.json")).get("splits")
        if not isinstance(splits, list) or not all(isinstance(s, str) and _plain(s) for s in splits):
            raise SourceError("a damaged dataset_dict.json", where=root)
        layouts = [_saved(root.child(split), split) for split in splits]
        if not layouts:
            raise SourceError("a data set without splits", where=root)
        return Layout(tuple(part for one in layouts for part in one.parts), layouts[0].features)
    if root.child("state.json").is_file():
        return _saved(root, None)
    if root.child("dataset_info.json").is_file():
        return _prepared(root)
    return Layout(tuple(_parquet(root, config)), {})


def _plain(name: str) -> bool:
    return (
        bool(name) and "/" not in name and "\\" not in name and name not in (".", "..") and "\0" not in name
    )


def _saved(folder: File, split: str | None) -> Layout:
    state = read_json(folder.child("state.json"))
    if state.get("_indices_data_files"):
        raise SourceError(
            "an old data set with a selection of its own", where=folder, todo="flatten_indices() and save it"
        )
    files = state.get("_data_files")
    named = files if isinstance(files, list) else []
    names = [one.get("filename") if isinstance(one, dict) else None for one in named]
    if not names or not all(isinstance(name, str) and _plain(name) for name in names):
        raise SourceError("a damaged state.json", where=folder)
    said = split or state.get("_split")
    split = said if isinstance(said, str) and _plain(said) else "train"
    info = folder.child("dataset_info.json")
    features = read_json(info).get("features") if info.is_file() else None
    parts = tuple(Part(folder.child(str(name)), split, "arrow") for name in names)
    for part in parts:
        # A named pipe would block for ever.
        if isinstance(part.file, LocalFile) and not part.file.is_file():
            raise SourceError(
                "a file that state.json names is not there",
                where=folder,
                found=part.file.name,
                todo="bring the data set again",
            )
    return Layout(parts, features if isinstance(features, dict) else {})


def _prepared(folder: File) -> Layout:
    info = read_json(folder.child("dataset_info.json"))
    named = [
        (found["split"], name)
        for name in folder.listing()[0]
        if not name.startswith("cache-") and (found := _PREPARED.fullmatch(name)) is not None
    ]
    if not named:
        raise SourceError("no Arrow files beside this dataset_info.json", where=folder)
    said = info.get("splits")
    order = list(said) if isinstance(said, dict) else []
    rank = {split: order.index(split) if split in order else len(order) for split, _ in named}
    parts = [Part(folder.child(n), s, "arrow") for s, n in sorted(named, key=lambda one: (rank[one[0]], one))]
    features = info.get("features")
    return Layout(tuple(parts), features if isinstance(features, dict) else {})


def _parquet(root: File, config: str | None) -> Iterator[Part]:
    names = [name for name in _below(root) if name.lower().endswith(".parquet")]
    configs = sorted({name.partition("/")[0] for name in names if "/" in name} - {"data"})
    configs = [name for name in configs if _split_word(name) is None]
    if config is not None:
        if config not in configs:
            raise UsageError(
                f"no config {config!r}", found=root, allowed=", ".join(configs) or "none: leave it out"
            )
        names = [name for name in names if name.startswith(f"{config}/")]
    elif len(configs) > 1 or (configs and any(n.partition("/")[0] not in configs for n in names)):
        raise UsageError("a data set with several configs", found=root, todo=f"add ?config={configs[0]}")
    if not names:
        raise SourceError(
            "no data set in this folder",
            where=root,
            allowed="what save_to_disk writes, a prepared copy of the cache, or Parquet files",
        )
    parts = [Part(root.child(name), _split_of(name), "parquet") for name in names]
    rank = {split: k for k, split in enumerate(_SPLITS)}
    yield from sorted(parts, key=lambda part: rank.get(part.split, len(rank)))


def _below(root: File) -> list[str]:
    if not isinstance(root, LocalFile):
        return [n for n in root.below() if not any(p in ("", "..") or p[0] == "." for p in n.split("/"))]
    # Links are followed: the Hub's cache is made of them.
    found = (Path(folder, name) for folder, _, names in os.walk(root.path) for name in names)
    relative = (path.relative_to(root.path) for path in found)
    return sorted(path.as_posix() for path in relative if not any(p.startswith(".") for p in path.parts))


def _split_of(name: str) -> str:
    # As the Hub reads names: `SPLIT-00000-of-00002`, else a word for a split in the path, else all is train.
    shard = _SHARD.fullmatch(name.rpartition("/")[2])
    if shard is not None:
        return _split_word(shard["split"]) or shard["split"]
    return _split_word(name.removesuffix(".parquet")) or "train"


def _split_word(text: str) -> str | None:
    words = set(re.split(r"[^a-z]+", text.lower()))
    return next((split for split, known in _SPLITS.items() if words & set(known)), None)
