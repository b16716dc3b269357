"""The source `folder:PATH`: pictures in sub-folders named by their label, or all in one folder."""

from __future__ import annotations

import operator
import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedstore.errors import SourceError
from embedstore.sources.base import Sample
from embedstore.sources.reading.files import FOLDER_DEPTH, LocalFile, RemoteFile, at, holds
from embedstore.sources.reading.pictures import FilePicture, RemotePicture
from embedstore.sources.reading.rows import TEXT, Rows
from embedstore.sources.reading.tables import read_rows
from embedstore.sources.samples.grouping import Samples, check_language, group_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from embedstore.sources.reading.files import File

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SIDE_CARS = ("captions.csv", "captions.jsonl")
IMAGES = "images"


class FolderSource:
    """Pictures of a folder, sorted by their relative path, which is their id.

    The first sub-folder of a picture is its label, however deep it lies; pictures at the top have none.
    A folder whose only pictures lie in a sub-folder called `images` counts as flat. Files are taken by the
    ending of their name (`EXTENSIONS`, any case), so a broken picture is a sample, quarantined when it is
    opened. Hidden names are passed over; other files, links to folders and links that leave the folder are
    not followed but counted in `dropped`. Behind a URL the folder is listed once, with sizes.

    A `captions.csv` or `captions.jsonl` at the top says more about the pictures: columns as of a table,
    `image` being the path in the folder or in its `images`. Rows naming unknown pictures are refused;
    pictures without a row stay. `id` and `split` come from there; a `label` must not contradict the
    sub-folder.
    """

    shuffled = True

    def __init__(
        self, path: Path | File, *, columns: Mapping[str, str] | None = None, language: str = "en"
    ) -> None:
        path, language, columns = at(path), check_language(language), dict(columns or {})
        dropped: Counter[str] = Counter()
        listed = pictures_below(path, dropped)
        names, self._sizes = list(listed), list(listed.values()) if path.remote else None
        self._root = LocalFile(path.path.resolve()) if isinstance(path, LocalFile) else path
        if not names:
            others = ", ".join(f"{n} {what}" for what, n in sorted(dropped.items())) or "nothing"
            raise SourceError("no pictures in this folder", found=others, allowed=", ".join(EXTENSIONS))
        self._names = pa.array(names, TEXT)
        self._folders = _labels(names)
        side_car = _side_car(path)
        self._notes = None if side_car is None else _Notes.read(side_car, self._names, columns, language)
        if self._notes is not None:
            self._notes.refuse_other_labels(self._folders, side_car)
            dropped["empty captions"] = self._notes.samples.empty_captions
        elif columns:
            raise SourceError("columns are named but there is no side-car", allowed=" or ".join(SIDE_CARS))
        self.dropped = dict(dropped)
        self._identity: dict[str, str | int | float | bool] = {"kind": "folder", "language": language}
        self._identity |= {f"column {ours}": theirs for ours, theirs in sorted(columns.items())}

    @classmethod
    def from_spec(cls, rest: str, **options: Any) -> FolderSource:
        """The source of `folder:REST`, REST a path or URL."""
        return cls(at(rest), **options)

    @property
    def identity(self) -> Mapping[str, str | int | float | bool]:
        """Kind, default language and mapped columns; what lies in the folder is no part of it."""
        return dict(self._identity)

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels that occur, sorted."""
        noted = self._notes.samples.label.values if self._notes is not None else ()
        return tuple(sorted({label for label in self._folders if label is not None} | set(noted)))

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(index)
        name = self._names[index].as_py()
        nbytes = self._sizes[index] if self._sizes is not None else None
        picture = picture_in(self._root, name, nbytes)
        bare = Sample(id=name, picture=picture, label=self._folders[index])
        return bare if self._notes is None else self._notes.add_to(bare, index)


def pictures_below(folder: File, dropped: Counter[str]) -> dict[str, int | None]:
    """Names of all pictures below a folder, sorted, and their sizes where a listing tells them.

    What is passed over is counted in `dropped`. Raises `SourceError`.
    """
    if isinstance(folder, RemoteFile):
        return _listed(folder, dropped)
    if not folder.is_dir():
        raise SourceError("there is no such folder", found=folder)
    root = folder.path.resolve()
    return dict.fromkeys(sorted(_walk(root, dropped)))


def picture_in(folder: File, name: str, nbytes: int | None = None) -> FilePicture | RemotePicture:
    """The picture of a name that `pictures_below` gave."""
    if isinstance(folder, RemoteFile):
        return RemotePicture((folder.child(name),), name, nbytes)
    return FilePicture(folder.path / name, name)


def _walk(root: Path, dropped: Counter[str]) -> Iterator[str]:
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        if prefix.count("/") > FOLDER_DEPTH:
            raise SourceError("folders lie too deep in each other", where=root.name, allowed=FOLDER_DEPTH)
        for entry in _entries(root, prefix):
            name = f"{prefix}{entry.name}"
            if holds(entry.is_dir):
                if entry.is_symlink():
                    dropped["links to folders"] += 1
                else:
                    waiting.append(f"{name}/")
            elif not entry.name.lower().endswith(EXTENSIONS):
                dropped["other files"] += 1
            elif entry.is_symlink() and not _leads_into(entry.path, root):
                dropped["links that leave the folder"] += 1
            else:
                yield name


def _entries(root: Path, prefix: str) -> list[os.DirEntry[str]]:
    """What lies in one folder, but hidden things and the side-cars."""
    try:
        found = list(os.scandir(root / prefix))
    except OSError as bad:
        raise SourceError(f"cannot be listed: {bad.strerror}", where=prefix or "the folder") from None
    shown = [e for e in found if not e.name.startswith(".") and f"{prefix}{e.name}" not in SIDE_CARS]
    for entry in shown:
        if not _utf8(entry.name):
            raise SourceError(
                "a file name that is not UTF-8", found=ascii(f"{prefix}{entry.name}"), todo="rename it"
            )
    return shown


def _leads_into(link: str, root: Path) -> bool:
    try:
        return Path(link).resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a link to itself leads nowhere
        return False


def _listed(folder: RemoteFile, dropped: Counter[str]) -> dict[str, int | None]:
    # Pictures below a URL with their sizes, by the rules that hold on a disk.
    listed = folder.below()
    if not listed:
        raise SourceError("there is no such folder, or nothing can be listed there", found=folder)
    pictures: dict[str, int | None] = {}
    for name, nbytes in listed.items():
        if name in SIDE_CARS or any(part.startswith(".") for part in name.split("/")):
            continue
        if any(part in ("", "..") for part in name.split("/")):
            dropped["names that leave the folder"] += 1
        elif name.lower().endswith(EXTENSIONS):
            pictures[name] = nbytes
        else:
            dropped["other files"] += 1
    return pictures


def _utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _labels(names: list[str]) -> list[str | None]:
    labels = [name.partition("/")[0] if "/" in name else None for name in names]
    return [None] * len(names) if set(labels) == {IMAGES} else labels


def _side_car(path: File) -> File | None:
    there = [path.child(name) for name in SIDE_CARS if path.child(name).is_file()]
    if len(there) > 1:
        raise SourceError("two side-car files", found=", ".join(SIDE_CARS), todo="keep one of them")
    return there[0] if there else None


@dataclass(frozen=True)
class _Notes:
    """What the side-car says: its samples, and for every picture of the folder which of them is its own."""

    samples: Samples
    rows: Rows
    of_picture: Any

    @classmethod
    def read(cls, path: File, names: Any, columns: Mapping[str, str], language: str) -> _Notes:
        rows = read_rows(path, columns, (("image",),))
        rows = replace(rows, columns={**rows.columns, "image": _in_folder(rows, names, path.name)})
        samples = group_rows(rows, language=language)
        of_picture = np.full(len(names), -1, dtype=np.int64)
        if len(samples):
            of_picture[pc.index_in(samples.images, names).to_numpy()] = np.arange(len(samples))
        notes = cls(samples, rows, of_picture)
        notes.refuse_taken_ids(names)
        return notes

    def refuse_taken_ids(self, names: Any) -> None:
        if "id" not in self.rows:
            return
        silent = names.filter(pa.array(self.of_picture < 0))
        taken = np.flatnonzero(pc.is_in(self.samples.ids, silent).to_numpy(zero_copy_only=False))
        if len(taken):
            row = int(self.samples.first_row[taken[0]])
            raise SourceError(
                "an id that is the name of another picture",
                where=self.rows.place(row),
                found=self.samples.ids[int(taken[0])],
            )

    def refuse_other_labels(self, folders: list[str | None], path: File | None) -> None:
        for picture in np.flatnonzero(self.of_picture >= 0):
            at = int(self.of_picture[picture])
            said, folder = self.samples.label[at], folders[picture]
            if said is not None and folder is not None and said != folder:
                raise SourceError(
                    "a label contradicts the picture's sub-folder",
                    where=self.rows.place(int(self.samples.first_row[at])),
                    found=f"{said} in folder {folder}",
                    todo="--column label= goes by the folders" if path is not None else None,
                )

    def add_to(self, bare: Sample, index: int) -> Sample:
        at = int(self.of_picture[index])
        if at < 0:
            return bare
        return replace(
            bare,
            id=self.samples.ids[at].as_py(),
            captions=self.samples.captions(at),
            label=self.samples.label[at] or bare.label,
            split=self.samples.split[at],
        )


def _in_folder(rows: Rows, names: Any, where: str) -> Any:
    # The names as they stand in the folder: as written, or below `images`.
    written = rows.columns["image"]
    below = pc.binary_join_element_wise(pa.scalar(IMAGES, TEXT), written, pa.scalar("/", TEXT))
    found = pc.coalesce(pc.index_in(written, names), pc.index_in(below, names))
    unknown = pc.and_(pc.is_null(found), pc.is_valid(written)).to_numpy(zero_copy_only=False)
    if unknown.any():
        missing = written.filter(pa.array(unknown)).unique()
        examples = ", ".join(missing[:3].to_pylist())
        raise SourceError(
            f"{len(missing)} of the pictures it names are not in the folder",
            where=where,
            found=examples + (", …" if len(missing) > 3 else ""),
        )
    return names.take(found)
